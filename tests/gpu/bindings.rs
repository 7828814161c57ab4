//! A linear layer whose weight does not fit a default binding.

use std::ops::Range;

use serde_json::json;
use surprisal::{
    Arithmetic, Array, CrossEntropy, Dtype, Gpu, Layout, Operation, Request, Tensor, WeightLayout,
    plan::Role, testing,
};

use crate::{
    linear::{self, sample},
    support::{Context, Placed, indices, matrix, named, storage, submit, vector},
};

tests![weights_past_a_default_binding];

/// W has 128.25 MiB under WebGPU's default limits, and so has its gradient. The rows of W repeat (the biases do not),
/// so that the reference is cheap. Of ∂W, only the start, the end and the rows around the limit are compared.
fn weights_past_a_default_binding(context: &Context) {
    const CLASSES: u64 = 131_330;
    const DEPTH: u64 = 256;
    fn of_classes(buffer: &wgpu::Buffer) -> Tensor<'_> {
        Tensor::matrix(buffer, Dtype::F32, CLASSES, DEPTH)
    }
    let limit = 128 << 20;
    let gpu = &context.with(|profile| profile.binding_bytes = limit);
    let repeated = Repeated::new(CLASSES as usize, DEPTH as usize);
    let weight = storage(gpu, CLASSES * DEPTH * 4);
    assert!(weight.size() > limit);
    repeated.upload(gpu, &weight);
    let dense =
        |array: &Array, dtype| Placed::input(gpu, array, Layout::dense(dtype, &array.shape));
    let hidden = dense(&repeated.hidden, Dtype::F32);
    let bias = dense(&repeated.bias, Dtype::F32);
    let targets = dense(&repeated.targets, Dtype::I32);
    let [truth, naive] = [Arithmetic::F64, Arithmetic::F32].map(|how| repeated.solve(how));
    let gradient = storage(gpu, weight.size());
    let loss = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
    let hidden_gradient = Placed::output(gpu, hidden.layout.clone());
    let layer = linear::loss(&json!({}), WeightLayout::ClassesHidden);
    let request = Request::new(
        &*layer,
        surprisal::LinearCrossEntropyInputs::default()
            .hidden(hidden.tensor())
            .weight(of_classes(&weight))
            .bias(bias.tensor())
            .targets(targets.tensor())
            .into(),
        surprisal::LinearCrossEntropyOutputs::default()
            .loss(loss.tensor())
            .hidden_gradient(hidden_gradient.tensor())
            .weight_gradient(of_classes(&gradient))
            .into(),
    );
    let plan = gpu.plan(&request).unwrap();
    let reach = |role: &Role| {
        let bindings = plan.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
        bindings.filter(|b| b.role == *role).map(|b| b.offset + b.size).max()
    };
    for role in [Role::Input("weight".into()), Role::Output("grad.weight".into())] {
        assert_eq!(reach(&role), Some(weight.size()), "{role:?}");
    }
    submit(gpu, &request);
    let part = |rows: &Range<u64>| {
        let there = Tensor::matrix(&gradient, Dtype::F32, rows.end - rows.start, DEPTH);
        gpu.read_blocking(&there.offset(rows.start * DEPTH)).unwrap()
    };
    let mut found = vec![("loss", loss.array(gpu)), ("grad.hidden", hidden_gradient.array(gpu))];
    found.extend(Repeated::LOOKED_AT.iter().map(|rows| ("grad.weight", part(rows))));
    for ((name, actual), (truth, naive)) in found.iter().zip(truth.iter().zip(&naive)) {
        let compared = testing::compare(name, actual, truth, naive, Dtype::F32, CLASSES);
        assert!(compared.passed, "{name}: {compared:?}");
    }
}

/// A layer with two rows of hidden states. Its classes share a few rows of W, but each has its own bias.
struct Repeated {
    /// The number of different rows is prime: no window is a multiple of it.
    rows: Array,
    hidden: Array,
    bias: Array,
    targets: Array,
}

impl Repeated {
    /// The rows of ∂W that are compared: the first, those around 128 MiB (a KiB a row), and the last.
    const LOOKED_AT: [Range<u64>; 3] = [0..40, 131_040..131_104, 131_190..131_330];

    fn new(classes: usize, depth: usize) -> Self {
        let inputs = sample(71, 2, 1009, depth, WeightLayout::ClassesHidden);
        Self {
            rows: inputs["weight"].rounded(Dtype::F32),
            hidden: inputs["hidden"].rounded(Dtype::F32),
            bias: vector(&testing::gaussian(72, classes)).rounded(Dtype::F32),
            targets: indices(&[131_200, 77]),
        }
    }

    fn upload(&self, gpu: &Gpu, weight: &wgpu::Buffer) {
        let bytes = self.rows.to_bytes(Dtype::F32);
        for start in (0..weight.size()).step_by(bytes.len()) {
            let count = bytes.len().min((weight.size() - start) as usize);
            gpu.queue().write_buffer(weight, start, &bytes[..count]);
        }
        gpu.queue().submit([]);
        gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    }

    /// The loss, the gradient of the hidden states, and the parts of ∂W that are compared.
    fn solve(&self, arithmetic: Arithmetic) -> Vec<Array> {
        let round = |value: f64| match arithmetic {
            Arithmetic::F64 => value,
            Arithmetic::F32 => f64::from(value as f32),
        };
        let dot = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).fold(0.0, |sum, (a, b)| round(sum + round(a * b)))
        };
        let (rows, hidden, bias) = (self.rows.to_f64(), self.hidden.to_f64(), self.bias.to_f64());
        let depth = self.hidden.shape[1] as usize;
        let scores = hidden.chunks(depth).flat_map(|h| {
            let products: Vec<f64> = rows.chunks(depth).map(|row| dot(h, row)).collect();
            bias.iter()
                .zip(products.into_iter().cycle())
                .map(|(b, s)| round(s + b))
                .collect::<Vec<_>>()
        });
        let inputs = named([
            ("logits", matrix(2, bias.len(), scores.collect())),
            ("targets", self.targets.clone()),
        ]);
        let outputs = CrossEntropy::default()
            .reference(&inputs, &["loss", "grad.logits"], arithmetic)
            .unwrap();
        let slopes = outputs["grad.logits"].to_f64();
        let of_hidden = slopes.chunks(bias.len()).flat_map(|slopes| {
            let mut sums = vec![0.0; depth];
            for (slope, row) in slopes.iter().zip(rows.chunks(depth).cycle()) {
                for (sum, w) in sums.iter_mut().zip(row) {
                    *sum = round(*sum + round(slope * w));
                }
            }
            sums
        });
        let of_weight = |part: &Range<u64>| {
            let at = |class: usize, k: usize| {
                dot(&[slopes[class], slopes[bias.len() + class]], &[hidden[k], hidden[depth + k]])
            };
            let rows = part.start as usize..part.end as usize;
            let values = rows.clone().flat_map(|class| (0..depth).map(move |k| at(class, k)));
            matrix(rows.len(), depth, values.collect())
        };
        let hidden = matrix(2, depth, of_hidden.collect());
        let parts = Self::LOOKED_AT.iter().map(of_weight);
        [outputs["loss"].clone(), hidden].into_iter().chain(parts).collect()
    }
}
