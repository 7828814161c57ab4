//! Reads tensors from `.npy`, `.npz` and `.safetensors` files, and writes gradients into such files.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use npyz::{DType, Endianness, NpyFile, Order, TypeChar, WriterBuilder as _};
use safetensors::{SafeTensors, tensor::TensorView};
use surprisal::{Array, Data, Dtype, Error, Result};

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
        let (path, key) = match file.rsplit_once(':') {
            // A colon inside a path (`C:\…`, or a file with a colon in its name) does not start a key.
            Some((path, key)) if !Path::new(file).exists() && known(Path::new(path)) => {
                (path, Some(key.to_owned()))
            }
            _ => (file, None),
        };
        Ok(Self { name: name.to_owned(), path: path.into(), key })
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
    /// Integers.
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

/// The bytes of the `.npy` file inside an archive.
fn npz_member(source: &Source) -> Result<Vec<u8>> {
    let bad = |reason: &dyn std::fmt::Display| bad_file(&source.path, reason);
    let file = fs::File::open(&source.path).map_err(|error| bad(&error))?;
    let mut archive =
        npyz::npz::NpzArchive::new(std::io::BufReader::new(file)).map_err(|error| bad(&error))?;
    let mut names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    names.sort_unstable();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let key = choose(&keys, source).map_err(|reason| bad(&reason))?;
    let member = npyz::npz::file_name_from_array_name(key);
    let mut bytes = Vec::new();
    archive
        .zip_archive()
        .by_name(&member)
        .map_err(|error| bad(&error))?
        .read_to_end(&mut bytes)
        .map_err(|error| bad(&error))?;
    Ok(bytes)
}

/// Refuses a header with an impossible shape, because npyz multiplies the extents without a check.
fn check_shape(bytes: &[u8]) -> Result<(), String> {
    let header = &bytes[..bytes.len().min(1 << 16)];
    let header = String::from_utf8_lossy(header);
    let shape = header
        .split_once("'shape'")
        .or_else(|| header.split_once("\"shape\""))
        .and_then(|(_, rest)| rest.split_once('('))
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(shape, _)| shape)
        .ok_or("not a .npy array: its header names no shape")?;
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let product = extents
        .clone()
        .try_fold(1u64, |product, extent| product.checked_mul(extent.parse::<u64>().ok()?.max(1)));
    let elements = if extents.clone().any(|extent| extent == "0") { Some(0) } else { product };
    match (product, elements) {
        (Some(_), Some(elements)) if elements <= bytes.len() as u64 => Ok(()),
        _ => Err(format!("it says ({shape}) elements and has fewer than {} bytes", bytes.len())),
    }
}

fn npy(bytes: &[u8]) -> Result<(Array, Stored), String> {
    check_shape(bytes)?;
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
            (Data::Int(words.map(|word| signed(&word)).collect()), Stored::Integer)
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
        File::I8 => integers(words(1).map(signed).collect(), Stored::Integer),
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

/// Writes tensors: one into a `.npy`, any number into a `.safetensors`.
pub fn write(path: &Path, tensors: &[(String, &Array, Precision)]) -> Result<()> {
    match extension(path).as_str() {
        "npy" => {
            let [(_, array, precision)] = tensors else {
                let names: Vec<&str> = tensors.iter().map(|(name, ..)| name.as_str()).collect();
                let reason = format!("a .npy file holds one array, not {}", names.join(" and "));
                return Err(bad_file(path, reason));
            };
            let bytes = npy_bytes(array, *precision).map_err(|error| bad_file(path, error))?;
            crate::output::write(path, &bytes)
        }
        "safetensors" => write_safetensors(path, tensors),
        _ => Err(bad_file(path, "gradients are written to .npy or .safetensors files")),
    }
}

/// Whether [`write`] accepts this file; checked before anything is computed.
pub fn check_output(path: &Path) -> Result<()> {
    match extension(path).as_str() {
        "npy" | "safetensors" => Ok(()),
        _ => Err(bad_file(path, "gradients are written to .npy or .safetensors files")),
    }
}

fn npy_bytes(array: &Array, precision: Precision) -> std::io::Result<Vec<u8>> {
    let values = array.to_f64();
    if precision == Precision::F64 {
        npy_of(&array.shape, values)
    } else {
        // numpy has no bf16, and f32 holds both 16-bit types exactly.
        npy_of(&array.shape, values.into_iter().map(|value| value as f32))
    }
}

fn npy_of<T: npyz::AutoSerialize>(
    shape: &[u64],
    values: impl IntoIterator<Item = T>,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::new().default_dtype().shape(shape);
    let mut writer = options.writer(&mut bytes).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    Ok(bytes)
}

fn write_safetensors(path: &Path, tensors: &[(String, &Array, Precision)]) -> Result<()> {
    use safetensors::Dtype as File;
    let bad = |error: safetensors::SafeTensorError| bad_file(path, error);
    let stored: Vec<(File, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(_, array, precision)| {
            let shape = array.shape.iter().map(|&extent| extent as usize).collect();
            let (dtype, bytes) = match precision {
                Precision::Storage(Dtype::F16) => (File::F16, array.to_bytes(Dtype::F16)),
                Precision::Storage(Dtype::Bf16) => (File::BF16, array.to_bytes(Dtype::Bf16)),
                Precision::Storage(_) => (File::F32, array.to_bytes(Dtype::F32)),
                Precision::F64 => {
                    let bytes = array.to_f64().into_iter().flat_map(f64::to_le_bytes).collect();
                    (File::F64, bytes)
                }
            };
            (dtype, shape, bytes)
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&stored)
        .map(|((name, ..), (dtype, shape, bytes))| {
            Ok((name.clone(), TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad)?;
    let bytes = safetensors::serialize(views, None).map_err(bad)?;
    crate::output::write(path, &bytes)
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
                    argument: name.to_owned(),
                    found: Dtype::I64,
                    expected: format!("float ({value} is no exact float)"),
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
