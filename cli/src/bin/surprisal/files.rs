//! Reads tensors from `.npy`, `.npz` and `.safetensors` files, and writes outputs into such files.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use npyz::{DType, Endianness, NpyFile, Order, TypeChar, WriterBuilder as _};
use safetensors::{SafeTensors, tensor::TensorView};
use surprisal::{Array, Data, Dtype, Error, Result};
use zip::{ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use crate::output::bad_file;

/// `NAME=FILE[:KEY]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The input.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The key of the tensor in the file.
    pub key: Option<String>,
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = text
            .split_once('=')
            .filter(|(name, file)| !name.is_empty() && !file.is_empty())
            .ok_or_else(|| format!("`{text}` is not NAME=FILE or NAME=FILE:KEY"))?;
        // The key begins at the first colon behind the name of such a file; it may hold colons itself, and so may the
        // path (`C:\…`).
        let mut colons = file.match_indices(':').filter(|(at, _)| known(Path::new(&file[..*at])));
        let (path, key) = match colons.next() {
            Some((at, _)) if !Path::new(file).exists() => {
                (&file[..at], Some(file[at + 1..].to_owned()))
            }
            _ => (file, None),
        };
        Ok(Self { name: name.to_owned(), path: path.into(), key })
    }
}

/// `[OUTPUT,…=]FILE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// The outputs, if they are named.
    named: Vec<String>,
    /// Their file.
    pub path: PathBuf,
}

impl std::str::FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (named, path) = match text.split_once('=') {
            // An equals sign inside a path names no outputs.
            Some((names, path)) if !names.contains(['/', '\\']) => {
                (names.split(',').map(str::to_owned).collect(), path)
            }
            _ => (Vec::new(), text),
        };
        if path.is_empty() || named.iter().any(String::is_empty) {
            return Err(format!("`{text}` is not FILE or OUTPUT,…=FILE"));
        }
        Ok(Self { named, path: path.into() })
    }
}

impl Destination {
    /// The outputs that go here: the named ones, or otherwise all those asked for.
    pub fn names<'a>(&'a self, asked: &'a [String]) -> &'a [String] {
        if self.named.is_empty() { asked } else { &self.named }
    }

    /// Whether the file can hold these outputs; checked before anything is computed.
    pub fn check(&self, names: &[String]) -> Result<()> {
        match extension(&self.path).as_str() {
            "npy" if names.len() != 1 => {
                let reason = format!("a .npy file holds one array, not {}", names.join(" and "));
                Err(bad_file(&self.path, reason))
            }
            "npy" | "npz" | "safetensors" => Ok(()),
            _ => Err(bad_file(&self.path, "outputs go to .npy, .npz or .safetensors files")),
        }
    }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn known(path: &Path) -> bool {
    ["npy", "npz", "safetensors"].contains(&extension(path).as_str())
}

/// How a tensor was stored, as far as its reader needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// 64-bit floats.
    F64,
    /// Floats that f32 holds exactly.
    Float,
    /// True or false.
    Bool,
    /// Signed bytes: what quantised logits are stored as.
    I8,
    /// Other integers.
    Integer,
}

/// Reads a tensor. Scalars become vectors of one element; Fortran order becomes row by row.
pub fn read(source: &Source) -> Result<(Array, Stored)> {
    let path = &source.path;
    let bad = |reason: String| bad_file(path, reason);
    match extension(path).as_str() {
        "npy" => {
            if let Some(key) = &source.key {
                return Err(bad(format!("a .npy file holds one array, so there is no `{key}`")));
            }
            npy(&open(path)?).map_err(bad)
        }
        "npz" => {
            let bytes = npz_member(source)?;
            npy(&bytes).map_err(bad)
        }
        "safetensors" => safetensor(&open(path)?, source).map_err(bad),
        _ => Err(bad("not a .npy, .npz or .safetensors file".to_owned())),
    }
}

fn open(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| bad_file(path, error))
}

/// Chooses a key: the one asked for, the input's own name, or the only key.
fn choose<'a>(keys: &[&'a str], source: &Source) -> Result<&'a str, String> {
    let find = |wanted: &str| keys.iter().copied().find(|key| *key == wanted);
    match (&source.key, keys) {
        (Some(wanted), _) => find(wanted),
        (None, [only]) => Some(*only),
        (None, _) => find(&source.name),
    }
    .ok_or_else(|| {
        let wanted = source.key.as_ref().unwrap_or(&source.name);
        format!("it has no tensor `{wanted}`; there are {}", keys.join(", "))
    })
}

/// How the members of an archive are called behind their keys.
const MEMBER: &str = ".npy";

/// The bytes of the `.npy` file inside an archive.
fn npz_member(source: &Source) -> Result<Vec<u8>> {
    let bad = |reason: &dyn std::fmt::Display| bad_file(&source.path, reason);
    let file = fs::File::open(&source.path).map_err(|error| bad(&error))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(|error| bad(&error))?;
    let members = archive.file_names().filter_map(Result::ok);
    let mut names: Vec<String> =
        members.filter_map(|name| name.strip_suffix(MEMBER).map(str::to_owned)).collect();
    names.sort_unstable();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let key = choose(&keys, source).map_err(|reason| bad(&reason))?;
    let mut bytes = Vec::new();
    archive
        .by_name(&format!("{key}{MEMBER}"))
        .map_err(|error| bad(&error))?
        .read_to_end(&mut bytes)
        .map_err(|error| bad(&error))?;
    Ok(bytes)
}

/// The shape in a header, as text and as its place in the bytes.
fn shape_of(bytes: &[u8]) -> Option<(&str, std::ops::Range<usize>)> {
    // The header ends with a line break. What follows need not be text.
    let header = &bytes[..bytes.len().min(1 << 16)];
    let end =
        header.iter().skip(10).position(|&byte| byte == b'\n').map_or(header.len(), |at| at + 10);
    let start =
        header[..end].windows(7).position(|word| word == b"'shape'" || word == b"\"shape\"")?;
    let open = start + header[start..end].iter().position(|&byte| byte == b'(')? + 1;
    let close = open + header[open..end].iter().position(|&byte| byte == b')')?;
    Some((std::str::from_utf8(&header[open..close]).ok()?, open..close))
}

/// Refuses a header with an impossible shape, because npyz multiplies the extents without a check.
fn check_shape(shape: &str, bytes: usize) -> Result<(), String> {
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let product = extents
        .clone()
        .try_fold(1u64, |product, extent| product.checked_mul(extent.parse::<u64>().ok()?.max(1)));
    let elements = if extents.clone().any(|extent| extent == "0") { Some(0) } else { product };
    match (product, elements) {
        (Some(_), Some(elements)) if elements <= bytes as u64 => Ok(()),
        _ => Err(format!("it says ({shape}) elements and has fewer than {bytes} bytes")),
    }
}

fn npy(bytes: &[u8]) -> Result<(Array, Stored), String> {
    let (shape, place) = shape_of(bytes).ok_or("not a .npy array: its header names no shape")?;
    if bytes[..place.start].windows(3).any(|word| word == b"'|O") {
        return Err("its elements are Python objects (dtype=object), not numbers: save it with a \
                    type of numbers, such as `array.astype(\"float32\")`"
            .to_owned());
    }
    // Python 2 wrote long integers: (4L, 3L).
    let plain = shape.replace('L', " ");
    check_shape(&plain, bytes.len())?;
    let mut copy;
    let bytes = if plain == shape {
        bytes
    } else {
        copy = bytes.to_vec();
        copy[place].copy_from_slice(plain.as_bytes());
        &copy
    };
    let file = NpyFile::new(bytes).map_err(|error| format!("not a .npy array: {error}"))?;
    let header = file.header();
    let dtype = header.dtype();
    let DType::Plain(ty) = &dtype else {
        return Err(format!("its elements are records ({}), not numbers", dtype.descr()));
    };
    let ty = ty.clone();
    let shape = header.shape().to_vec();
    let fortran = header.order() == Order::Fortran;
    let data = file.into_inner();
    let size = ty.num_bytes().unwrap_or(0);
    let count = shape.iter().try_fold(1u64, |all, &extent| all.checked_mul(extent));
    let needed = count.and_then(|count| count.checked_mul(size as u64));
    if size == 0 || needed.is_none_or(|needed| needed > data.len() as u64) {
        return Err(format!(
            "it says {shape:?} elements of type {ty} and has {} bytes of them",
            data.len()
        ));
    }
    let big = ty.endianness() == Endianness::Big;
    let words = data.chunks_exact(size).take(count.unwrap_or(0) as usize).map(|word| {
        let mut word = word.to_vec();
        if big {
            word.reverse();
        }
        word
    });
    let unknown = || format!("its elements have type {ty}, which is not a number type known here");
    let (data, stored) = match (ty.type_char(), size) {
        (TypeChar::Float, 2 | 4 | 8) => {
            let values = words.map(|word| float(&word)).collect();
            (Data::Float(values), if size == 8 { Stored::F64 } else { Stored::Float })
        }
        (TypeChar::Bool, 1) => {
            (Data::Int(words.map(|word| i64::from(word[0] != 0)).collect()), Stored::Bool)
        }
        (TypeChar::Int, 1 | 2 | 4 | 8) => {
            let stored = if size == 1 { Stored::I8 } else { Stored::Integer };
            (Data::Int(words.map(|word| signed(&word)).collect()), stored)
        }
        (TypeChar::Uint, 1 | 2 | 4 | 8) => {
            let values: Option<Vec<i64>> = words.map(|word| unsigned(&word)).collect();
            (Data::Int(values.ok_or("an element is past the largest i64")?), Stored::Integer)
        }
        _ => return Err(unknown()),
    };
    let data = if fortran { row_by_row(data, &shape) } else { data };
    Ok((Array { shape: at_least_one(shape), data }, stored))
}

/// Turns a scalar into a vector of one element.
fn at_least_one(shape: Vec<u64>) -> Vec<u64> {
    if shape.is_empty() { vec![1] } else { shape }
}

fn float(word: &[u8]) -> f64 {
    match *word {
        [a, b] => {
            let values = Array::from_bytes(Dtype::F16, &[1], &[a, b]).to_f64();
            values.first().copied().unwrap_or(f64::NAN)
        }
        [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    }
}

/// A little-endian integer of up to eight bytes.
fn signed(word: &[u8]) -> i64 {
    let negative = word.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    for (to, from) in wide.iter_mut().zip(word) {
        *to = *from;
    }
    i64::from_le_bytes(wide)
}

fn unsigned(word: &[u8]) -> Option<i64> {
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(word) {
        *to = *from;
    }
    i64::try_from(u64::from_le_bytes(wide)).ok()
}

/// Column-major elements in row-major order.
fn reorder<T: Copy>(values: &[T], extents: &[usize]) -> Vec<T> {
    (0..values.len())
        .map(|flat| {
            // The index in each dimension, from the last one on; then the element's offset in column-major order.
            let mut rest = flat;
            let mut index = vec![0; extents.len()];
            for (at, &extent) in index.iter_mut().zip(extents).rev() {
                *at = rest % extent;
                rest /= extent;
            }
            let place = index.iter().zip(extents).rev().fold(0, |place, (&at, &e)| place * e + at);
            values[place]
        })
        .collect()
}

/// [`reorder`] for either element type.
fn row_by_row(data: Data, shape: &[u64]) -> Data {
    let extents: Vec<usize> = shape.iter().map(|&extent| extent as usize).collect();
    match data {
        Data::Float(values) => Data::Float(reorder(&values, &extents)),
        Data::Int(values) => Data::Int(reorder(&values, &extents)),
    }
}

fn safetensor(bytes: &[u8], source: &Source) -> Result<(Array, Stored), String> {
    use safetensors::Dtype as File;
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut keys = tensors.names();
    keys.sort_unstable();
    let key = choose(&keys, source)?;
    let tensor = tensors.tensor(key).map_err(|error| error.to_string())?;
    let shape = at_least_one(tensor.shape().iter().map(|&extent| extent as u64).collect());
    let data = tensor.data();
    let words = |size: usize| data.chunks_exact(size);
    let native = |dtype, stored| Ok((Array::from_bytes(dtype, &shape, data), stored));
    let integers = |values: Vec<i64>, stored| Ok((Array::int(&shape, values), stored));
    match tensor.dtype() {
        File::F64 => Ok((Array::float(&shape, words(8).map(float).collect()), Stored::F64)),
        File::F32 => native(Dtype::F32, Stored::Float),
        File::F16 => native(Dtype::F16, Stored::Float),
        File::BF16 => native(Dtype::Bf16, Stored::Float),
        File::BOOL => integers(words(1).map(|b| i64::from(b[0] != 0)).collect(), Stored::Bool),
        File::I8 => integers(words(1).map(signed).collect(), Stored::I8),
        File::I16 => integers(words(2).map(signed).collect(), Stored::Integer),
        File::I32 => integers(words(4).map(signed).collect(), Stored::Integer),
        File::I64 => integers(words(8).map(signed).collect(), Stored::Integer),
        File::U8 => integers(words(1).filter_map(unsigned).collect(), Stored::Integer),
        File::U16 => integers(words(2).filter_map(unsigned).collect(), Stored::Integer),
        File::U32 => integers(words(4).filter_map(unsigned).collect(), Stored::Integer),
        other => Err(format!("tensor `{key}` has type {other}, which is not read here")),
    }
}

/// How a float tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the CPU reference returned it.
    F64,
    /// As stored on the GPU.
    Storage(Dtype),
}

/// Writes tensors: one into a `.npy`, any number into the others.
pub fn write(path: &Path, tensors: &[(String, &Array, Precision)]) -> Result<()> {
    let bytes = match extension(path).as_str() {
        "safetensors" => safetensors_bytes(tensors).map_err(|error| bad_file(path, error))?,
        "npz" => npz_bytes(tensors).map_err(|error| bad_file(path, error))?,
        _ => {
            // The destination was checked: this is one array.
            let arrays = tensors.iter().map(|(_, array, precision)| npy_bytes(array, *precision));
            arrays.collect::<io::Result<Vec<_>>>().map_err(|error| bad_file(path, error))?.concat()
        }
    };
    crate::output::write(path, &bytes)
}

fn npz_bytes(tensors: &[(String, &Array, Precision)]) -> Result<Vec<u8>, ZipError> {
    let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, array, precision) in tensors {
        archive.start_file(format!("{name}{MEMBER}"), SimpleFileOptions::default())?;
        archive.write_all(&npy_bytes(array, *precision)?)?;
    }
    Ok(archive.finish()?.into_inner())
}

fn npy_bytes(array: &Array, precision: Precision) -> io::Result<Vec<u8>> {
    match &array.data {
        Data::Int(values) => npy_of(&array.shape, values.iter().copied()),
        Data::Float(values) if precision == Precision::F64 => {
            npy_of(&array.shape, values.iter().copied())
        }
        // numpy has no bf16, and f32 holds both 16-bit types exactly.
        Data::Float(values) => npy_of(&array.shape, values.iter().map(|&value| value as f32)),
    }
}

fn npy_of<T: npyz::AutoSerialize>(
    shape: &[u64],
    values: impl IntoIterator<Item = T>,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::new().default_dtype().shape(shape);
    let mut writer = options.writer(&mut bytes).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    Ok(bytes)
}

fn safetensors_bytes(
    tensors: &[(String, &Array, Precision)],
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    use safetensors::Dtype as File;
    let stored: Vec<(File, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(_, array, precision)| {
            let shape = array.shape.iter().map(|&extent| extent as usize).collect();
            let (dtype, bytes) = match (&array.data, precision) {
                (Data::Int(_), _) => (File::I64, array.to_bytes(Dtype::I64)),
                (_, Precision::Storage(Dtype::F16)) => (File::F16, array.to_bytes(Dtype::F16)),
                (_, Precision::Storage(Dtype::Bf16)) => (File::BF16, array.to_bytes(Dtype::Bf16)),
                (_, Precision::Storage(_)) => (File::F32, array.to_bytes(Dtype::F32)),
                (Data::Float(values), Precision::F64) => {
                    (File::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
                }
            };
            (dtype, shape, bytes)
        })
        .collect();
    let views = tensors.iter().zip(&stored).map(|((name, ..), (dtype, shape, bytes))| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.clone(), view))
    });
    safetensors::serialize(views.collect::<Result<Vec<_>, _>>()?, None)
}

/// Converts an array to what an input of this loss takes: masks and integers become floats where the input takes
/// floats. The lines describe the changes.
pub fn adapt(
    name: &str,
    (array, stored): (Array, Stored),
    wants_float: bool,
    storage: Option<Dtype>,
) -> Result<(Array, Option<String>)> {
    let Array { shape, data } = array;
    let (array, note) = match data {
        Data::Int(values) if wants_float => {
            let exact = 1i64 << 53;
            if let Some(value) = values.iter().find(|value| !(-exact..=exact).contains(*value)) {
                return Err(Error::WrongDtype {
                    argument: name.into(),
                    found: Dtype::I64,
                    expected: format!("float ({value} is no exact float)").into(),
                });
            }
            let kind = if stored == Stored::Bool { "a bool mask" } else { "integers" };
            let floats = values.into_iter().map(|value| value as f64).collect();
            (
                Array::float(&shape, floats),
                Some(format!("note: `{name}` is {kind}, taken as floats")),
            )
        }
        data => (Array { shape, data }, None),
    };
    match storage {
        Some(dtype) if matches!(array.data, Data::Float(_)) => {
            let rounded = array.rounded(dtype);
            let changed = stored == Stored::F64 || (dtype != Dtype::F32 && rounded != array);
            let from = if stored == Stored::F64 { "float64" } else { "wider" };
            let line = changed.then(|| {
                format!("note: `{name}` is {from} in its file, rounded to {dtype} for the GPU")
            });
            Ok((rounded, note.or(line)))
        }
        _ => Ok((array, note)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]
mod tests {
    use super::*;

    fn header(descr: &str, fortran: &str, shape: &str) -> Vec<u8> {
        let dict =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(format!("{dict:<width$}\n", width = length - 1).bytes());
        bytes
    }

    fn array(
        descr: &str,
        fortran: &str,
        shape: &str,
        data: &[u8],
    ) -> Result<(Array, Stored), String> {
        let mut bytes = header(descr, fortran, shape);
        bytes.extend(data);
        npy(&bytes)
    }

    #[test]
    fn fortran_order_becomes_row_by_row() {
        let data: Vec<u8> =
            [1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let (read, stored) = array("<f4", "True", "(2, 3)", &data).unwrap();
        assert_eq!(read, Array::float(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(stored, Stored::Float);
    }

    #[test]
    fn every_number_type_is_read() {
        let one =
            |descr: &str, data: &[u8]| array(descr, "False", "(1,)", data).unwrap().0.to_f64()[0];
        assert_eq!(one("|b1", &[1]), 1.0);
        assert_eq!(one("|i1", &[0xff]), -1.0);
        assert_eq!(one("<i2", &(-2i16).to_le_bytes()), -2.0);
        assert_eq!(one(">i4", &(-3i32).to_be_bytes()), -3.0);
        assert_eq!(one("<u2", &65_535u16.to_le_bytes()), 65_535.0);
        assert_eq!(one("<f2", &[0x00, 0x3c]), 1.0);
        assert_eq!(one(">f8", &0.1f64.to_be_bytes()), 0.1);
        assert_eq!(array("<i8", "False", "()", &7i64.to_le_bytes()).unwrap().0.shape, [1]);
    }

    #[test]
    fn what_is_no_array_of_numbers_is_an_error() {
        assert!(npy(b"nonsense").is_err());
        assert!(npy(b"\x93NUMPY\x01\x00\xff\xff{").is_err());
        for (descr, shape) in [
            ("<c8", "(1,)"),
            ("<U4", "(1,)"),
            ("<f4", "(18446744073709551615, 2)"),
            ("<f4", "(9,)"),
        ] {
            assert!(array(descr, "False", shape, &[0; 16]).is_err(), "{descr} {shape}");
        }
        assert!(array("<u8", "False", "(1,)", &u64::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn a_key_follows_the_file_and_colons_of_paths_stay() {
        let source: Source = "logits=dir/a.safetensors:x.y".parse().unwrap();
        assert_eq!((source.path, source.key), ("dir/a.safetensors".into(), Some("x.y".to_owned())));
        let source: Source = r"logits=C:\a.npy".parse().unwrap();
        assert_eq!((source.path, source.key), (r"C:\a.npy".into(), None));
        assert!("logits".parse::<Source>().is_err());
    }
}
