//! What the tests share: planned calls that cover the specialisations.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use surprisal::{
    CrossEntropy, CrossEntropyShards, Dtype, Layout, Plan, Profile, Shard,
    loss::{self, Dim, Kind},
    plan::{self, Operand},
};

/// Profiles that differ in what shapes the code.
pub fn profiles() -> Vec<Profile> {
    vec![Profile::default(), Profile::default().software(8)]
}

/// Option sets that differ in what shapes the code.
pub fn options() -> Vec<Value> {
    vec![
        json!({}),
        json!({"reduction": "none"}),
        json!({"label_smoothing": 0.1, "z_loss": 0.01, "temperature": 2.0, "softcap": 8.0}),
        json!({"label_smoothing": 0.2, "smoothing": "ordinal", "reduction": "sum"}),
        json!({"focal_gamma": 0.5, "label_smoothing": 0.1, "denominator": "weights"}),
        json!({"padding": "zero", "reduction": {"over": 3.0}}),
        json!({"focal_gamma": 0.5, "unknown_target": -1.0, "check_targets": true}),
        json!({"activation": "sigmoid"}),
        json!({"p": 2, "ramp": 1.0}),
        json!({"log_variance": true, "full": true}),
        json!({"log_input": false, "full": true}),
        json!({"per": "batch", "bce": 0.5}),
        json!({"per": "channel"}),
        json!({"spans": [{"kind": "cce", "columns": 3}, {"kind": "bce", "weight": 0.5}]}),
        json!({"saturating": true}),
        json!({"normalize": true}),
        json!({"normalize": true, "symmetric": true}),
    ]
}

/// Plans of every registered loss over types, shapes, options and outputs.
pub fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for entry in loss::REGISTRY {
        for options in options() {
            // A loss has the option sets that it knows.
            let Ok(loss) = (entry.parse)(&options) else { continue };
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                for (rows, classes, offset) in
                    [(5, 12, 0), (3, 7, 1), (6, 6, 1), (2, 100_003, 0), (2, 65_536, 0)]
                {
                    for variant in 0..4 {
                        let shape = Shape { rows, classes, offset, dtype, variant };
                        for profile in profiles() {
                            let call = shape.call(loss.as_ref(), &profile);
                            match loss.plan(&call, &profile) {
                                Ok(plan) => plans.push(plan),
                                // Options that exclude a variant's targets, and the like.
                                Err(
                                    surprisal::Error::InvalidOption { .. }
                                    | surprisal::Error::WrongShape { .. }
                                    | surprisal::Error::MissingInput { .. }
                                    | surprisal::Error::Conflict { .. }
                                    // One coefficient over a batch with gaps, or with row weights.
                                    | surprisal::Error::WrongStride { .. },
                                ) => {}
                                Err(error) => panic!("{error}: {loss:?} {shape:?}"),
                            }
                        }
                    }
                }
            }
        }
    }
    plans.extend(profiles().iter().flat_map(shards));
    plans
}

/// A shard's statistics, its gradient from the lse of all shards, and what makes that lse.
fn shards(profile: &Profile) -> Vec<Plan> {
    let shard = CrossEntropy::default().shard(Some(Shard { first: 3, classes: 1 << 20 }));
    let whole = CrossEntropyShards::new(1 << 20);
    let calls: [(&dyn surprisal::Loss, &[&str], &[&str]); 3] = [
        (&shard, &["logits", "targets", "logit_bias"], &["statistics"]),
        (&shard, &["logits", "targets", "lse", "row_weight"], &["grad.logits"]),
        (&whole, &["statistics", "targets"], &["loss", "lse", "argmax", "entropy", "status"]),
    ];
    let plan = |(loss, inputs, outputs): (&dyn surprisal::Loss, &[&str], &[&str])| {
        let shape = Shape { rows: 4, classes: 70_001, offset: 0, dtype: Dtype::F32, variant: 0 };
        let about = loss.about();
        let operands = |arguments: &[loss::Argument], names: &[&str], first| {
            let named = arguments.iter().filter(|a| names.contains(&a.name)).enumerate();
            let operand = |(at, a): (usize, &loss::Argument)| shape.operand(loss, a, first + at);
            named.map(|(at, a)| (a.name.to_owned(), operand((at, a)))).collect()
        };
        let inputs = operands(about.inputs, inputs, 0);
        let outputs = operands(about.outputs, outputs, 100);
        loss.plan(&call(loss, inputs, outputs, profile), profile).unwrap()
    };
    calls.into_iter().map(plan).collect()
}

/// A call to plan: which inputs it has is the variant.
#[derive(Debug)]
pub struct Shape {
    pub rows: u64,
    pub classes: u64,
    pub offset: u64,
    pub dtype: Dtype,
    pub variant: u32,
}

impl Shape {
    pub fn call(&self, loss: &dyn surprisal::Loss, profile: &Profile) -> plan::Call {
        let about = loss.about();
        let mut inputs = BTreeMap::new();
        let mut outputs = BTreeMap::new();
        let skip: &[&str] = match self.variant {
            0 => &["target_probs", "lse", "denominator"],
            1 => &["targets", "lse", "denominator", "weight_only"],
            2 => &[
                "target_probs",
                "weight_only",
                "class_weight",
                "logit_bias",
                "row_weight",
                "upstream",
            ],
            _ => &["targets", "row_weight", "upstream", "denominator"],
        };
        for argument in about.inputs {
            if !skip.contains(&argument.name) || argument.required {
                inputs.insert(argument.name.to_owned(), self.operand(loss, argument, inputs.len()));
            }
        }
        let lse = inputs.contains_key("lse");
        // What saturates must be a sigmoid.
        let saturates = format!("{loss:?}").contains("Sigmoid");
        for argument in about.outputs {
            let by_product = !argument.name.starts_with("grad.");
            let probs = inputs.contains_key("target_probs");
            let refused: &[&str] = if probs {
                &["log_prob", "rank", "correct", "correct_count"]
            } else {
                &["grad.target_probs"]
            };
            let unknown = argument
                .name
                .strip_prefix("grad.")
                .is_some_and(|input| !inputs.contains_key(input));
            let unwatched = argument.name == "saturation" && !saturates;
            if !(lse && by_product || refused.contains(&argument.name) || unknown || unwatched) {
                let number = inputs.len() + outputs.len();
                outputs.insert(argument.name.to_owned(), self.operand(loss, argument, number));
            }
        }
        call(loss, inputs, outputs, profile)
    }

    fn operand(
        &self,
        loss: &dyn surprisal::Loss,
        argument: &loss::Argument,
        number: usize,
    ) -> Operand {
        let extent = |dim: &Dim| match dim {
            Dim::Rows => self.rows,
            Dim::Classes => self.classes,
            Dim::Hidden => 6,
            Dim::One => 1,
            dim => loss.extents().into_iter().find(|(d, _)| d == dim).map_or(8, |(_, e)| e),
        };
        let rank = loss.about().inputs[0].shapes[0].len();
        let shape = argument.shape_in(loss, rank);
        let shape: Vec<u64> = shape.iter().map(extent).collect();
        let dtype = match argument.kind {
            Kind::Float | Kind::Mask => self.dtype,
            Kind::F32 => Dtype::F32,
            Kind::Index | Kind::Label | Kind::I64 => Dtype::I64,
            Kind::U32 => Dtype::U32,
            _ => panic!("a new kind"),
        };
        let matrix = argument.kind == Kind::Float && shape.len() == 2;
        let stride = if matrix { shape[1] + u64::from(self.variant == 2) * 4 } else { 1 };
        let layout = Layout::dense(dtype, &shape);
        let layout =
            if shape.len() == 2 { layout.clone().row_stride(stride.max(shape[1])) } else { layout };
        let planes = matrix && self.variant == 3 && self.offset == 1 && loss.takes_planes();
        let layout = if planes { layout.class_stride(self.rows) } else { layout };
        let layout = layout.offset(if matrix { self.offset } else { 0 });
        Operand {
            name: argument.name.to_owned(),
            layout,
            allocation: number,
            allocation_bytes: 1 << 30,
        }
    }
}

/// The checked call.
pub fn call(
    loss: &dyn surprisal::Loss,
    inputs: BTreeMap<String, Operand>,
    outputs: BTreeMap<String, Operand>,
    profile: &Profile,
) -> plan::Call {
    plan::Call::checked(loss, inputs, outputs, false, profile).unwrap()
}
