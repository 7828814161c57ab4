//! The options of a linear layer, and how they stand beside those of the loss of its scores.

use crate::spec::{about::OptionAbout, arguments as arg};

/// The options of a linear layer.
pub(crate) const OPTIONS_OF_LAYER: [OptionAbout; 4] = [
    OptionAbout {
        name: "weight_layout",
        default: "\"classes_hidden\"",
        samples: &["\"hidden_classes\""],
        about: "\"classes_hidden\" or \"hidden_classes\"",
    },
    OptionAbout {
        name: "chunk_bytes",
        default: "null",
        samples: &["256", "1152"],
        about: "the most bytes for the chunk of logits",
    },
    arg::ACCUMULATE,
    OptionAbout {
        name: "normalize",
        default: "false",
        samples: &["true"],
        about: "hidden states and W's vectors of the classes are divided by their norms",
    },
];

/// The options of a linear layer, followed by those of the loss.
pub(crate) const fn options_of_layer<const ALL: usize>(loss: &[OptionAbout]) -> [OptionAbout; ALL] {
    let mut all = [OPTIONS_OF_LAYER[0]; ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = match at.checked_sub(OPTIONS_OF_LAYER.len()) {
            None => OPTIONS_OF_LAYER[at],
            Some(at) => loss[at],
        };
        at += 1;
    }
    all
}

/// The options in JSON: those of the linear layer and those of the loss in one object.
///
/// `serde(flatten)` cannot deny unknown fields, so the options are separated here.
#[cfg(feature = "serde")]
mod json {
    use serde::{
        Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _,
        ser::Error as _,
    };
    use serde_json::{Map, Value};

    use super::OPTIONS_OF_LAYER;
    use crate::{
        skeleton::linear::Linear,
        spec::options::{Accumulate, WeightLayout},
    };

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Own {
        weight_layout: WeightLayout,
        chunk_bytes: Option<u64>,
        accumulate: Accumulate,
        normalize: bool,
    }

    impl<'de, L: DeserializeOwned> Deserialize<'de> for Linear<L> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let all = Map::<String, Value>::deserialize(deserializer)?;
            let (own, rest): (Map<_, _>, Map<_, _>) = all
                .into_iter()
                .partition(|(name, _)| OPTIONS_OF_LAYER.iter().any(|option| option.name == name));
            let Own { weight_layout, chunk_bytes, accumulate, normalize } =
                serde_json::from_value(own.into()).map_err(D::Error::custom)?;
            let loss = serde_json::from_value(rest.into()).map_err(D::Error::custom)?;
            Ok(Self { loss, weight_layout, chunk_bytes, accumulate, normalize })
        }
    }

    impl<L: Serialize> Serialize for Linear<L> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let object = |value: Result<Value, _>| match value {
                Ok(Value::Object(map)) => Ok(map),
                Ok(_) => Err(S::Error::custom("options are an object")),
                Err(error) => Err(S::Error::custom(error)),
            };
            let Self { weight_layout, chunk_bytes, accumulate, normalize, .. } = *self;
            let mut all = object(serde_json::to_value(&self.loss))?;
            let own = Own { weight_layout, chunk_bytes, accumulate, normalize };
            all.extend(object(serde_json::to_value(own))?);
            all.serialize(serializer)
        }
    }
}
