//! An unknown target in JSON: null, a number, or "nan", for which JSON has no number.

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Unknown {
    Number(f64),
    Word(String),
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
pub(crate) fn serialize<S: Serializer>(
    unknown: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let written = unknown.map(|unknown| match unknown {
        nan if nan.is_nan() => Unknown::Word("nan".to_owned()),
        number => Unknown::Number(number),
    });
    written.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<f64>, D::Error> {
    let expected = "`unknown_target` is a number, \"nan\" or null";
    match Option::<Unknown>::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
        None => Ok(None),
        Some(Unknown::Number(number)) => Ok(Some(number)),
        Some(Unknown::Word(word)) if word.eq_ignore_ascii_case("nan") => Ok(Some(f64::NAN)),
        Some(Unknown::Word(word)) => Err(D::Error::custom(format!("{expected}, not `{word}`"))),
    }
}
