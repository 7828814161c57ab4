//! Numbers for a call of the catalogue: seeded, and as they are stored.

use serde_json::{Value, json};
use surprisal::{
    Array, Arrays, Data, Dtype, Layout, Operation, cpu,
    loss::{About, Argument, Dim, Kind},
    operations, testing,
};

use super::catalogue::{Call, Extents};

/// Inputs that are outputs of another call: what that is follows from the other inputs.
const SAVED: [&str; 4] = ["lse", "entropy", "column_lse", "statistics"];
/// Every third target is unknown.
const UNKNOWN: usize = 3;

/// The inputs of a call.
pub fn inputs(call: &Call, operation: &dyn Operation, seed: u64) -> Arrays {
    let values = Values { call, about: operation.about(), seed };
    let whole = values.whole();
    let [first, end] = values.own();
    let mut own = values.part(&whole, first, end);
    own.extend(call.host.clone());
    let given = |name: &str| call.inputs.contains_key(name);
    let f32 = |array: &Array| array.rounded(Dtype::F32);
    let statistics = given("statistics").then(|| values.statistics(&whole));
    let saved = ["lse", "entropy", "column_lse"].into_iter().filter(|name| given(name));
    let saved: Vec<&str> = saved.collect();
    if !saved.is_empty() {
        // A saved lse is rounded to f32, and a gradient loses what that lost of large scores. Small temperatures make
        // scores large.
        if let Some(temperature) = own.get_mut("temperature") {
            let values = temperature.to_f64().iter().map(|value| value.max(1.0)).collect();
            *temperature = Array::float(&temperature.shape, values);
        }
        let saved = cpu::run(operation, &own, &saved).unwrap();
        own.extend(saved.into_iter().map(|(name, array)| (name, f32(&array))));
    }
    own.extend(statistics.map(|array| ("statistics".to_owned(), f32(&array))));
    own
}

/// The inputs in the order in which a device has them: bits lie as the elements do, which may be in planes.
pub fn as_they_lie(call: &Call, inputs: &Arrays) -> Arrays {
    let planes = call.inputs.values().any(Layout::has_planes);
    let mut lying = inputs.clone();
    let bits = call.inputs.get("mask").filter(|mask| planes && mask.dtype == Dtype::U32);
    if let Some(mask) = bits.and_then(|_| lying.get_mut("mask")) {
        let words = mask.to_i64();
        let Extents { rows, classes, plane, .. } = call.extents;
        let mut moved = vec![0; words.len()];
        for at in 0..rows * classes {
            let (row, class) = (at / classes, at % classes);
            let there = ((row / plane * classes + class) * plane + row % plane) as usize;
            moved[there / 32] |= (words[at as usize / 32] >> (at % 32) & 1) << (there % 32);
        }
        *mask = Array::int(&mask.shape, moved);
    }
    lying
}

struct Values<'a> {
    call: &'a Call,
    about: &'static About,
    seed: u64,
}

impl Values<'_> {
    /// The first of the call's columns and the last one's next, of all shards.
    fn own(&self) -> [u64; 2] {
        let first = self.call.options["shard"]["first"].as_u64().unwrap_or(0);
        [first, first + self.call.extents.classes]
    }

    /// The columns of all shards.
    fn columns(&self) -> u64 {
        let all = self.call.options["shard"]["classes"].as_u64();
        all.unwrap_or(self.call.extents.classes)
    }

    /// The inputs with the columns of all shards, but for those that are saved.
    fn whole(&self) -> Arrays {
        let given = self.call.inputs.iter().filter(|(name, _)| !SAVED.contains(name));
        let array = |(number, (&name, layout)): (usize, (&&'static str, &Layout))| {
            let argument = self.about.inputs.iter().find(|input| input.name == name).unwrap();
            let mut shape = layout.shape.clone();
            if let Some(axis) = self.axis(argument, layout) {
                shape[axis] = self.columns();
            }
            let seed = self.seed.wrapping_mul(31).wrapping_add(number as u64);
            let array = self.array(argument, layout.dtype, &shape, seed);
            let is_float = matches!(array.data, Data::Float(_));
            let stored = if is_float { array.rounded(layout.dtype) } else { array };
            (name.to_owned(), stored)
        };
        given.enumerate().map(array).collect()
    }

    /// The axis of a tensor that a shard has a part of.
    fn axis(&self, argument: &Argument, layout: &Layout) -> Option<usize> {
        let is_sharded = self.call.options.get("shard").is_some();
        let classes = |dims: &&[Dim]| {
            let axis = dims.iter().position(|dim| *dim == Dim::Classes)?;
            let fits = layout.shape.len() == dims.len();
            (fits && layout.shape[axis] == self.call.extents.classes).then_some(axis)
        };
        is_sharded.then(|| argument.shapes.iter().find_map(classes))?
    }

    fn array(&self, argument: &Argument, dtype: Dtype, shape: &[u64], seed: u64) -> Array {
        let count = shape.iter().product::<u64>();
        let below = |different| testing::indices(argument.domain, seed, count as usize, different);
        match argument.kind {
            Kind::Index => Array::int(shape, self.classes(below(self.columns()), dtype)),
            Kind::Label => Array::int(shape, below(testing::different(argument, count, 0))),
            // As small as floats are. Larger ones make softmaxes of which nothing is left but the largest class.
            Kind::Logits | Kind::I8 if dtype == Dtype::I8 => {
                Array::int(shape, below(7).into_iter().map(|value| value - 3).collect())
            }
            Kind::Mask if dtype == Dtype::U8 => Array::int(shape, below(2)),
            Kind::Mask if dtype == Dtype::U32 => Array::int(shape, below(1 << 32)),
            _ => {
                let mut values = testing::numbers(argument.domain, seed, count as usize);
                self.forget_some(argument, &mut values);
                Array::float(shape, values)
            }
        }
    }

    /// Classes, one of them ignored where the option has its default and the type a sign.
    fn classes(&self, mut classes: Vec<i64>, dtype: Dtype) -> Vec<i64> {
        let ignores = self.about.options.iter().any(|option| option.name == "ignore_index");
        let default = self.call.options.get("ignore_index").is_none();
        if ignores && default && dtype != Dtype::U32 {
            classes[1] = -100;
        }
        classes
    }

    /// Makes some targets what stands for an unknown one.
    fn forget_some(&self, argument: &Argument, values: &mut [f64]) {
        let unknown = match &self.call.options["unknown_target"] {
            Value::Null => return,
            number => number.as_f64().unwrap_or(f64::NAN),
        };
        if argument.name == "targets" {
            values.iter_mut().step_by(UNKNOWN).for_each(|value| *value = unknown);
        }
    }

    /// The inputs with the columns of one shard.
    fn part(&self, whole: &Arrays, from: u64, to: u64) -> Arrays {
        let part = |(name, array): (&String, &Array)| {
            let argument = self.about.inputs.iter().find(|input| input.name == name).unwrap();
            let axis = self.axis(argument, &self.call.inputs[name.as_str()]);
            let array = axis.map_or_else(|| array.clone(), |axis| slice(array, axis, from, to));
            (name.clone(), array)
        };
        whole.iter().map(part).collect()
    }

    /// The statistics of all shards, one after another. A shard of no columns has zeros.
    fn statistics(&self, whole: &Arrays) -> Array {
        let [first, end] = self.own();
        let layout = &self.call.inputs["statistics"];
        let words = (layout.len() / super::catalogue::SHARDS) as usize;
        let of = |(from, to): (u64, u64)| {
            if from == to {
                return vec![0.0; words];
            }
            let mut options = self.call.options.clone();
            options["shard"] = json!({"first": from, "classes": self.columns()});
            let parse = operations::find(self.call.operation).unwrap().parse;
            let part = self.part(whole, from, to);
            cpu::run(&*parse(&options).unwrap(), &part, &["statistics"]).unwrap()["statistics"]
                .to_f64()
        };
        let shards = [(0, first), (first, end), (end, self.columns())];
        Array::float(&layout.shape, shards.into_iter().flat_map(of).collect())
    }
}

/// What lies from one index to another along an axis.
pub fn slice(array: &Array, axis: usize, from: u64, to: u64) -> Array {
    let mut shape = array.shape.clone();
    let inner: u64 = shape[axis + 1..].iter().product();
    let outer: u64 = shape[..axis].iter().product();
    let len = std::mem::replace(&mut shape[axis], to - from);
    let starts = (0..outer).map(|o| ((o * len + from) * inner) as usize);
    let runs = starts.map(|start| start..start + ((to - from) * inner) as usize);
    match &array.data {
        Data::Float(v) => Array::float(&shape, runs.flat_map(|run| v[run].to_vec()).collect()),
        Data::Int(v) => Array::int(&shape, runs.flat_map(|run| v[run].to_vec()).collect()),
    }
}
