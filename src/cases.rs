//! Reference cases: the inputs of a loss and the expected outputs, in safetensors files.
//!
//! A file's metadata has `format` = `1` and, under `cases`, a JSON list. A case has an `id`, a `loss` and its
//! `options`. `inputs` and `expect` give the key of each tensor by its name; `upstream` is the key of the upstream
//! gradient, if there is one; `note` and `source` are for people. Files can come from anywhere: `scripts/cases.py`
//! writes one from a torch expression.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use safetensors::{
    SafeTensors, serialize,
    tensor::{Dtype as Stored, TensorView},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{
    array::{Array, Arrays, Data},
    error::{Error, Result},
    tensor::Dtype,
};

/// The version of the format that is read and written.
const FORMAT: &str = "1";

/// The name of the upstream gradient in [`Case::inputs`].
const UPSTREAM: &str = "upstream";

/// One reference case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// The name in reports.
    pub id: String,
    /// The name of the loss, as in the catalogue.
    pub loss: String,
    /// The options that are not the defaults, as a JSON object.
    pub options: Value,
    /// The inputs; the upstream gradient is `upstream`.
    pub inputs: Arrays,
    /// The expected outputs.
    pub expect: Arrays,
    /// What is special about the case.
    pub note: Option<String>,
    /// The source of the expected values.
    pub source: Option<String>,
}

/// A case in the metadata: with tensor keys instead of tensors.
#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    loss: String,
    #[serde(default)]
    options: serde_json::Map<String, Value>,
    inputs: Keys,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    expect: Keys,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

type Keys = std::collections::BTreeMap<String, String>;

/// Reads the cases of a file, or of every `.safetensors` file of a directory in the order of their
/// names.
pub fn load(path: &Path) -> Result<Vec<Case>> {
    if !path.is_dir() {
        return load_file(path);
    }
    let files = files_of(path)?;
    if files.is_empty() {
        return Err(Error::file(path, "no .safetensors file in this directory"));
    }
    let mut cases = Vec::new();
    for file in files {
        cases.extend(load_file(&file)?);
    }
    Ok(cases)
}

/// Writes cases to a file. Inputs are stored as f32 where f32 holds them exactly, expected values as f64.
pub fn save(path: &Path, cases: &[Case]) -> Result<()> {
    let refused = |error: Fault| Error::file_from(path, UNWRITABLE, error);
    let bytes = bytes(cases).map_err(refused)?;
    fs::write(path, bytes).map_err(|error| Error::file_from(path, UNWRITABLE, error))
}

/// The bytes of a file of cases.
fn bytes(cases: &[Case]) -> Result<Vec<u8>, Fault> {
    let mut tensors = Vec::new();
    let mut entries = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        entries.push(entry(index, case, &mut tensors)?);
    }
    let list = serde_json::to_string(&entries)?;
    let metadata =
        HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("cases".to_owned(), list)]);
    let views = tensors
        .iter()
        .map(|tensor| Ok((tensor.key.as_str(), tensor.view()?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(serialize(views, Some(metadata))?)
}

const UNREADABLE: &str = "it cannot be read";
const UNWRITABLE: &str = "it cannot be written";

fn files_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error: io::Error| Error::file_from(directory, UNREADABLE, error);
    let mut files = Vec::new();
    for file in fs::read_dir(directory).map_err(unreadable)? {
        let file = file.map_err(unreadable)?.path();
        if file.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn load_file(path: &Path) -> Result<Vec<Case>> {
    let bytes = fs::read(path).map_err(|error| Error::file_from(path, UNREADABLE, error))?;
    from_bytes(path, &bytes)
}

/// Reads the cases from the bytes of a file, whose path is for errors.
pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Vec<Case>> {
    parse(bytes).map_err(|error| Error::file_from(path, "its cases cannot be read", error))
}

/// What is wrong with a file of cases: an error of a reader, or a text.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Reads the cases from the bytes of a file, or says what is wrong with them.
fn parse(bytes: &[u8]) -> Result<Vec<Case>, Fault> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    let field = |name: &str| {
        let fields = metadata.metadata().as_ref();
        fields
            .and_then(|fields| fields.get(name))
            .ok_or_else(|| format!("the metadata has no `{name}`"))
    };
    let format = field("format")?;
    if format != FORMAT {
        return Err(format!("the format is `{format}`, only `{FORMAT}` is known").into());
    }
    let entries: Vec<Entry> = serde_json::from_str(field("cases")?)?;
    let cases = entries.into_iter().map(|entry| case(entry, &tensors));
    Ok(cases.collect::<Result<_, String>>()?)
}

fn case(mut entry: Entry, tensors: &SafeTensors<'_>) -> Result<Case, String> {
    if let Some(key) = entry.upstream.take() {
        entry.inputs.insert(UPSTREAM.to_owned(), key);
    }
    let read = |keys: &Keys| {
        keys.iter()
            .map(|(name, key)| Ok((name.clone(), array(tensors, key)?)))
            .collect::<Result<Arrays, String>>()
            .map_err(|reason| format!("case {}: {reason}", entry.id))
    };
    Ok(Case {
        inputs: read(&entry.inputs)?,
        expect: read(&entry.expect)?,
        id: entry.id,
        loss: entry.loss,
        options: entry.options.into(),
        note: entry.note,
        source: entry.source,
    })
}

/// The tensor with this key. A scalar becomes a vector of one element.
fn array(tensors: &SafeTensors<'_>, key: &str) -> Result<Array, String> {
    let tensor = tensors.tensor(key).map_err(|error| format!("tensor `{key}`: {error}"))?;
    let mut shape: Vec<u64> = tensor.shape().iter().map(|&extent| extent as u64).collect();
    if shape.is_empty() {
        shape.push(1);
    }
    let bytes = tensor.data();
    Ok(match tensor.dtype() {
        Stored::F64 => {
            let words = bytes.as_chunks().0.iter().copied();
            Array::float(&shape, words.map(f64::from_le_bytes).collect())
        }
        Stored::F32 => Array::from_bytes(Dtype::F32, &shape, bytes),
        Stored::F16 => Array::from_bytes(Dtype::F16, &shape, bytes),
        Stored::BF16 => Array::from_bytes(Dtype::Bf16, &shape, bytes),
        Stored::I64 => Array::from_bytes(Dtype::I64, &shape, bytes),
        Stored::I32 => Array::from_bytes(Dtype::I32, &shape, bytes),
        Stored::U32 => Array::from_bytes(Dtype::U32, &shape, bytes),
        Stored::I8 => Array::from_bytes(Dtype::I8, &shape, bytes),
        Stored::U8 | Stored::BOOL => {
            Array::int(&shape, bytes.iter().map(|&byte| i64::from(byte)).collect())
        }
        other => {
            return Err(format!("tensor `{key}` has type {other}, which no case uses"));
        }
    })
}

/// A tensor that will be written.
struct Output {
    key: String,
    dtype: Stored,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Output {
    fn new(key: String, array: &Array, exact: bool) -> Self {
        let (dtype, bytes) = match &array.data {
            Data::Int(_) => (Stored::I64, array.to_bytes(Dtype::I64)),
            Data::Float(values) if exact || !fit_f32(values) => {
                (Stored::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            Data::Float(_) => (Stored::F32, array.to_bytes(Dtype::F32)),
        };
        let shape = array.shape.iter().map(|&extent| extent as usize).collect();
        Self { key, dtype, shape, bytes }
    }

    fn view(&self) -> Result<TensorView<'_>, safetensors::SafeTensorError> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes)
    }
}

/// Whether f32 holds all values exactly.
fn fit_f32(values: &[f64]) -> bool {
    values.iter().all(|&value| value.is_nan() || f64::from(value as f32) == value)
}

/// The metadata of a case. Its tensors are added to `tensors`.
fn entry(index: usize, case: &Case, tensors: &mut Vec<Output>) -> Result<Entry, String> {
    let options = match &case.options {
        Value::Object(options) => options.clone(),
        Value::Null => serde_json::Map::new(),
        other => return Err(format!("case {}: options {other} are no object", case.id)),
    };
    let mut store = |arrays: &Arrays, prefix: &str, exact: bool| -> Keys {
        let key = |name: &String| format!("{index:04}/{prefix}{name}");
        tensors.extend(arrays.iter().map(|(name, array)| Output::new(key(name), array, exact)));
        arrays.keys().map(|name| (name.clone(), key(name))).collect()
    };
    let mut inputs = store(&case.inputs, "", false);
    let expect = store(&case.expect, "expect.", true);
    Ok(Entry {
        id: case.id.clone(),
        loss: case.loss.clone(),
        options,
        upstream: inputs.remove(UPSTREAM),
        inputs,
        expect,
        note: case.note.clone(),
        source: case.source.clone(),
    })
}
