//! What the tests share: planned calls that cover the specialisations.
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod catalogue;
pub mod covering;
pub mod own;
pub mod values;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use surprisal::{
    Cooperative, CrossEntropy, Dtype, Layout, Plan, Profile, Tile, TileLoads,
    cooperative::Side,
    loss::{self, Dim, Kind},
    plan::{self, Operand},
};

/// Profiles that differ in what shapes the code.
pub fn profiles() -> Vec<Profile> {
    vec![Profile::default(), Profile::default().software(8)]
}

/// Profiles whose score tiles go through cooperative matrices, of every kind, whatever their size.
pub fn cooperative_profiles() -> Vec<Profile> {
    let sides = [Side::Eight, Side::Sixteen];
    let kinds = sides.into_iter().flat_map(|side| [(side, false), (side, true)]);
    let profile = |(side, emulated)| Profile {
        large_products: 0,
        cooperative: Cooperative { f16: Some(side), f32: Some(side), lanes: 32, emulated },
        ..Profile::default()
    };
    kinds.map(profile).collect()
}

/// Profiles of large score tiles whose operands are loaded in every way, in words of 32 and of 64 bits.
pub fn tile_profiles() -> Vec<Profile> {
    [
        (TileLoads::Lane, 8, 8, 48, 4, false),
        (TileLoads::Lane, 8, 8, 24, 2, true),
        (TileLoads::Four, 8, 8, 24, 4, false),
        (TileLoads::Eight, 8, 8, 48, 4, false),
        (TileLoads::Eight, 8, 8, 48, 4, true),
        (TileLoads::Workgroup, 128, 16, 8, 2, false),
        (TileLoads::Workgroup, 16, 4, 24, 1, true),
    ]
    .map(|(loads, lanes, across, rows, bands, wide)| {
        let tile = Tile { loads, lanes, across, rows, bands, wide };
        Profile { large_products: 0, tile, ..Profile::default() }
    })
    .to_vec()
}

/// Plans of the losses on score tiles with such a profile.
pub fn tile_plans(profile: &Profile) -> Vec<Plan> {
    let mut plans = Vec::new();
    for (name, options) in [
        ("linear_cross_entropy", json!({})),
        ("linear_cross_entropy", json!({"weight_layout": "hidden_classes", "accumulate": true})),
        ("info_nce", json!({"normalize": true})),
    ] {
        let loss = (surprisal::operations::find(name).unwrap().parse)(&options).unwrap();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            // The weight's first extent is that of the classes, or of the depth, which is 6.
            let wide = if options.get("weight_layout").is_some() { 6 } else { 600 };
            for (rows, classes, offset) in [(6, 6, 0), (6, 6, 1), (60, wide, 0)] {
                let shape = Shape { rows, classes, offset, dtype, variant: 0 };
                plans.push(loss.plan(&shape.call(&*loss, profile).unwrap(), profile).unwrap());
            }
        }
    }
    plans
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
        // Less than a long row of scores.
        json!({"chunk_bytes": 30_000}),
        json!({"chunk_bytes": 30_000, "normalize": true, "symmetric": true}),
    ]
}

/// Plans of every registered loss over types, shapes, options and outputs, and of a user's own ones.
pub fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for entry in loss::REGISTRY {
        // A loss has the option sets that it knows.
        for loss in options().iter().filter_map(|options| (entry.parse)(options).ok()) {
            plans.extend(plans_of(loss.as_ref()));
        }
    }
    plans.extend(own::losses().iter().flat_map(|loss| plans_of(loss.as_ref())));
    plans.extend(profiles().iter().flat_map(shards));
    // So many rows that their tallies are folded.
    let (given, wanted) = (["logits", "targets"], ["loss", "status"]);
    let many = |profile| planned(&CrossEntropy::default(), &given, &wanted, [1 << 22, 3], profile);
    plans.extend(profiles().iter().map(many));
    plans
}

/// Plans of a loss over types, shapes and outputs.
fn plans_of(loss: &dyn surprisal::Operation) -> Vec<Plan> {
    let mut plans = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for (rows, classes, offset) in
            [(5, 12, 0), (3, 7, 1), (6, 6, 1), (2, 100_003, 0), (2, 65_536, 0)]
        {
            for variant in 0..4 {
                let shape = Shape { rows, classes, offset, dtype, variant };
                for profile in profiles() {
                    let call = shape.call(loss, &profile);
                    match call.and_then(|call| loss.plan(&call, &profile)) {
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
    plans
}

/// What a shard gives, and what it makes of the statistics of all shards.
fn shards(profile: &Profile) -> Vec<Plan> {
    type Given<'a> = (&'a str, Value, &'a [&'a str], [u64; 2]);
    let ordinal = json!({"focal_gamma": 2.0, "label_smoothing": 0.1, "smoothing": "ordinal"});
    let both = json!({"normalize": true, "symmetric": true});
    let (few, many, itself) = ([4, 7], [4, 70_001], [10, 7]);
    let losses: [Given; 8] = [
        ("cross_entropy", json!({}), &["logits", "targets", "logit_bias", "weight"], many),
        ("cross_entropy", ordinal, &["logits", "targets"], many),
        ("cross_entropy", json!({"label_smoothing": 0.1}), &["logits", "target_probs"], few),
        ("linear_cross_entropy", json!({}), &["hidden", "weight", "targets"], many),
        ("info_nce", json!({"normalize": true}), &["queries", "keys", "scale", "targets"], many),
        ("info_nce", both.clone(), &["queries", "keys", "scale"], itself),
        ("sup_con", json!({}), &["features", "labels", "keys"], itself),
        ("sigmoid_contrastive", json!({}), &["queries", "keys", "scale", "bias"], few),
    ];
    let with = |given: &[&'static str], more: &[&'static str]| [given, more].concat();
    let mut plans = Vec::new();
    for (name, mut options, given, extents) in losses {
        let [rows, classes] = extents;
        let all = if classes > rows { classes + 3 } else { rows };
        options["shard"] = json!({"first": 3, "classes": all});
        let loss = (surprisal::operations::find(name).unwrap().parse)(&options).unwrap();
        let gradients: Vec<String> = given.iter().map(|name| format!("grad.{name}")).collect();
        let outputs: Vec<&str> = ["loss", "lse", "entropy", "argmax", "status"]
            .into_iter()
            .chain(gradients.iter().map(String::as_str))
            .collect();
        let symmetric =
            options == json!({"normalize": true, "symmetric": true, "shard": options["shard"]});
        let columns: &[&str] = if symmetric { &["column_lse"] } else { &[] };
        if name != "sigmoid_contrastive" {
            let statistics = with(&["statistics", "status"], columns);
            plans.push(planned(&*loss, given, &statistics, extents, profile));
        }
        let given = with(&with(given, &["statistics"]), columns);
        plans.push(planned(&*loss, &given, &outputs, extents, profile));
    }
    // Gradients from what was saved of both directions.
    let loss = (surprisal::operations::find("info_nce").unwrap().parse)(&both).unwrap();
    let given = ["queries", "keys", "scale", "lse", "column_lse"];
    let gradients = ["grad.queries", "grad.keys", "grad.scale"];
    plans.push(planned(&*loss, &given, &gradients, [7, 7], profile));
    plans.push(planned(&*loss, &given[..3], &["loss", "lse", "column_lse"], [7, 7], profile));
    plans
}

/// The plan of a call with those of these inputs and outputs that the loss has.
fn planned(
    loss: &dyn surprisal::Operation,
    inputs: &[&str],
    outputs: &[&str],
    [rows, classes]: [u64; 2],
    profile: &Profile,
) -> Plan {
    let shape = Shape { rows, classes, offset: 0, dtype: Dtype::F32, variant: 0 };
    let about = loss.about();
    let operands = |arguments: &[loss::Argument], names: &[&str], first| {
        let named = arguments.iter().filter(|a| names.contains(&a.name)).enumerate();
        let operand = |(at, a): (usize, &loss::Argument)| shape.operand(loss, a, first + at);
        named.map(|(at, a)| (a.name.to_owned(), operand((at, a)))).collect()
    };
    let inputs = operands(about.inputs, inputs, 0);
    let outputs = operands(about.outputs, outputs, 100);
    loss.plan(&call(loss, inputs, outputs, profile).unwrap(), profile).unwrap()
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
    pub fn call(
        &self,
        loss: &dyn surprisal::Operation,
        profile: &Profile,
    ) -> surprisal::Result<plan::Call> {
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
            // Of shards there are plans of their own.
            let of_shards = ["statistics", "column_lse", "keys"].contains(&argument.name);
            if !(skip.contains(&argument.name) || of_shards) || argument.required {
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
            let of_shards = argument.name == "column_lse";
            let unwatched = argument.name == "saturation" && !saturates;
            let refused = refused.contains(&argument.name);
            if !(of_shards || lse && by_product || refused || unknown || unwatched) {
                let number = inputs.len() + outputs.len();
                outputs.insert(argument.name.to_owned(), self.operand(loss, argument, number));
            }
        }
        call(loss, inputs, outputs, profile)
    }

    fn operand(
        &self,
        loss: &dyn surprisal::Operation,
        argument: &loss::Argument,
        number: usize,
    ) -> Operand {
        let extent = |dim: &Dim| match dim {
            Dim::Rows => self.rows,
            Dim::Classes | Dim::Fakes => self.classes,
            Dim::Hidden => 6,
            Dim::One => 1,
            Dim::Gathered => 3 * self.rows,
            dim => loss.extents().into_iter().find(|(d, _)| d == dim).map_or(8, |(_, e)| e),
        };
        let rank = loss.about().inputs[0].shapes[0].len();
        let usual = argument.shape_in(loss, rank);
        let sharded = loss.extents().iter().any(|(dim, _)| *dim == Dim::AllClasses);
        // The weights of all classes, where the classes are those of a shard.
        let all = argument.shapes.iter().find(|s| sharded && s.contains(&Dim::AllClasses));
        let shape = all.copied().unwrap_or(usual);
        let shape: Vec<u64> = shape.iter().map(extent).collect();
        let dtype = match argument.kind {
            // Bytes and bits.
            Kind::Mask if self.variant == 1 => Dtype::U8,
            Kind::Mask if self.variant == 3 => Dtype::U32,
            Kind::Float | Kind::Mask => self.dtype,
            Kind::F32 => Dtype::F32,
            Kind::Index | Kind::Label | Kind::I64 => Dtype::I64,
            Kind::U32 => Dtype::U32,
            _ => panic!("a new kind"),
        };
        let bits = argument.kind == Kind::Mask && dtype == Dtype::U32;
        let shape = if bits { vec![shape.iter().product::<u64>().div_ceil(32)] } else { shape };
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
    loss: &dyn surprisal::Operation,
    inputs: BTreeMap<String, Operand>,
    outputs: BTreeMap<String, Operand>,
    profile: &Profile,
) -> surprisal::Result<plan::Call> {
    plan::Call::checked(loss, inputs, outputs, false, profile.offset_alignment)
}
