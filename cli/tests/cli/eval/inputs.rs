//! Inputs in every kind of file.

use std::{fs, io::Write as _, path::Path};

use surprisal::{Array, Dtype, testing};

use crate::command::{npy, npy_bytes};

/// An input in a file of a kind, and the array that it stands for.
pub struct Input {
    pub name: &'static str,
    /// The file, and the key in it.
    pub file: String,
    pub array: Array,
    /// What stderr says of it, on the reference and on a GPU.
    pub notes: [&'static str; 2],
}

impl Input {
    fn new(name: &'static str, file: &Path, key: &str, array: Array) -> Self {
        let key = if key.is_empty() { String::new() } else { format!(":{key}") };
        Self { name, file: format!("{}{key}", file.display()), array, notes: ["", ""] }
    }

    fn notes(mut self, cpu: &'static str, gpu: &'static str) -> Self {
        self.notes = [cpu, gpu];
        self
    }
}

const ROUNDED: &str = "float64 in its file, rounded to f32 for the GPU";

/// Numbers that f32 does not hold, or (`exact`) that it does.
pub fn numbers(seed: u64, shape: &[u64], exact: bool) -> Array {
    let count = shape.iter().product::<u64>() as usize;
    let array = Array::float(shape, testing::gaussian(seed, count));
    if exact { array.rounded(Dtype::F16) } else { array }
}

fn doubles(array: &Array) -> Vec<u8> {
    array.to_f64().into_iter().flat_map(f64::to_le_bytes).collect()
}

/// Column by column.
fn transposed(array: &Array) -> Array {
    let [rows, columns] = array.shape[..] else { panic!("a matrix") };
    let values = array.to_f64();
    let at = |i: u64| values[(i % rows * columns + i / rows) as usize];
    Array::float(&array.shape, (0..rows * columns).map(at).collect())
}

fn shape_of(array: &Array) -> String {
    let extents: Vec<String> = array.shape.iter().map(|extent| format!("{extent},")).collect();
    format!("({})", extents.join(" "))
}

/// f64 row by row, as numpy writes by default.
pub fn c_order(name: &'static str, folder: &Path, array: Array) -> Input {
    let path = folder.join(format!("{name}.c.npy"));
    npy(&path, "<f8", false, &shape_of(&array), &doubles(&array));
    Input::new(name, &path, "", array).notes("", ROUNDED)
}

pub fn fortran_order(name: &'static str, folder: &Path, array: Array) -> Input {
    let path = folder.join(format!("{name}.fortran.npy"));
    npy(&path, "<f8", true, &shape_of(&array), &doubles(&transposed(&array)));
    Input::new(name, &path, "", array).notes("", ROUNDED)
}

pub fn bools(name: &'static str, folder: &Path, array: Array) -> Input {
    let path = folder.join(format!("{name}.bool.npy"));
    let bytes: Vec<u8> = array.to_f64().iter().map(|&value| u8::from(value != 0.0)).collect();
    npy(&path, "|b1", false, &shape_of(&array), &bytes);
    let note = "is a bool mask, taken as floats";
    Input::new(name, &path, "", array).notes(note, note)
}

pub fn indices(name: &'static str, folder: &Path, values: &[i64]) -> Input {
    let path = folder.join(format!("{name}.int.npy"));
    let array = Array::int(&[values.len() as u64], values.to_vec());
    npy(&path, "<i8", false, &shape_of(&array), &array.to_bytes(Dtype::I64));
    Input::new(name, &path, "", array)
}

/// f32 arrays in one archive.
pub fn archive<const N: usize>(path: &Path, arrays: [(&'static str, Array); N]) -> [Input; N] {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    let inputs = arrays.map(|(name, array)| {
        let bytes = npy_bytes("<f4", false, &shape_of(&array), &array.to_bytes(Dtype::F32));
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(&bytes).unwrap();
        // The member that is called like the input needs no key.
        Input::new(name, path, "", array)
    });
    archive.finish().unwrap();
    inputs
}

/// Tensors of these types in one file, under keys of their own.
pub fn safetensors<const N: usize>(
    path: &Path,
    arrays: [(&'static str, Dtype, Array); N],
) -> [Input; N] {
    use safetensors::{Dtype as File, tensor::TensorView};
    let stored: Vec<(File, Vec<usize>, Vec<u8>)> = arrays
        .iter()
        .map(|(_, dtype, array)| {
            let file = match dtype {
                Dtype::F16 => File::F16,
                Dtype::Bf16 => File::BF16,
                Dtype::I64 => File::I64,
                _ => File::F32,
            };
            let shape = array.shape.iter().map(|&extent| extent as usize).collect();
            (file, shape, array.to_bytes(*dtype))
        })
        .collect();
    let views = arrays.iter().zip(&stored).map(|((name, ..), (dtype, shape, bytes))| {
        (format!("model.{name}"), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    arrays.map(|(name, _, array)| Input::new(name, path, &format!("model.{name}"), array))
}

/// f32 numbers of any shape in a file, as an argument of the command line.
pub fn file(folder: &Path, name: &str, array: &Array) -> String {
    let path = folder.join(format!("{name}.npy"));
    match array.data {
        surprisal::Data::Int(_) => {
            npy(&path, "<i8", false, &shape_of(array), &array.to_bytes(Dtype::I64));
        }
        surprisal::Data::Float(_) => {
            npy(&path, "<f4", false, &shape_of(array), &array.to_bytes(Dtype::F32));
        }
    }
    format!("{}={}", name.split('.').next().unwrap(), path.display())
}
