//! A policy loss of one's own: PPO's clipped objective with an entropy bonus, on the tokens of a language model's head.
//!
//! `cargo run --example policy_loss`
//!
//! Such a loss is a function of the log-probability of each sampled token and of the entropy there. It needs no kernel
//! that knows classes: the library hands out `log_prob` and `entropy`, and takes the derivative of the loss with
//! respect to each of them, one number a row. Between the two is a kernel of one's own, of a few lines. All of it is one
//! submission, and the logits are never stored.
//!
//! 1. `linear_cross_entropy` writes `log_prob`, `entropy` and `lse` of every row.
//! 2. The kernel writes each row's loss, ∂loss/∂log_prob and ∂loss/∂entropy.
//! 3. `linear_cross_entropy` makes the gradients from these (`upstream.log_prob`, `upstream.entropy`) and from the saved
//!    `lse` and `entropy`, with which the logits are made only once more. Without `upstream`, the cross-entropy itself
//!    takes no part.
//!
//! A row whose target is ignored (a prompt, padding) has log_prob and entropy 0 and no gradient; a loss of one's own has
//! to leave it out. Here every row counts.

mod common;

use surprisal::{
    Array, Arrays, CrossEntropy, Dtype, Gpu, LinearCrossEntropy, LinearCrossEntropyInputs,
    LinearCrossEntropyOutputs, Tensor, cpu, wgpu,
};

const ROWS: u64 = 96;
const CLASSES: u64 = 2000;
const DEPTH: u64 = 48;
/// How far the ratio may move, and what a nat of entropy is worth; the same as in the WGSL.
const CLIP: f64 = 0.2;
const BONUS: f64 = 0.01;

const WGSL: &str = "
const CLIP = 0.2;
const BONUS = 0.01;
@group(0) @binding(0) var<storage, read_write> log_prob: array<f32>;
@group(0) @binding(1) var<storage, read_write> entropy: array<f32>;
@group(0) @binding(2) var<storage, read_write> sampled: array<f32>;
@group(0) @binding(3) var<storage, read_write> advantage: array<f32>;
@group(0) @binding(4) var<storage, read_write> by_log_prob: array<f32>;
@group(0) @binding(5) var<storage, read_write> by_entropy: array<f32>;
@group(0) @binding(6) var<storage, read_write> losses: array<f32>;

@compute @workgroup_size(64)
fn clipped(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x;
    let rows = arrayLength(&losses);
    if (row >= rows) { return; }
    let ratio = exp(log_prob[row] - sampled[row]);
    let gain = ratio * advantage[row];
    let most = clamp(ratio, 1.0 - CLIP, 1.0 + CLIP) * advantage[row];
    losses[row] = (-min(gain, most) - BONUS * entropy[row]) / f32(rows);
    by_log_prob[row] = select(0.0, -gain / f32(rows), gain <= most);
    by_entropy[row] = -BONUS / f32(rows);
}
";

fn main() -> common::Outcome {
    let gpu = Gpu::open_blocking(None)?;
    let hidden = common::numbers(1, ROWS * DEPTH);
    let weight = common::numbers(2, CLASSES * DEPTH);
    let actions = common::classes(3, ROWS, CLASSES);
    let advantages = common::numbers(4, ROWS);
    let loss = LinearCrossEntropy::new(CrossEntropy::default());

    // The policy that the actions were sampled from is a little different from the one that is trained.
    let mut inputs = Arrays::from([
        ("hidden".to_owned(), common::array(&[ROWS, DEPTH], &hidden)),
        ("weight".to_owned(), common::array(&[CLASSES, DEPTH], &weight)),
        ("targets".to_owned(), common::indices(&actions)),
    ]);
    let now = cpu::run(&loss, &inputs, &["log_prob", "entropy"])?;
    let (now, entropies) = (now["log_prob"].to_f64(), now["entropy"].to_f64());
    let drift = common::numbers(5, ROWS).into_iter().map(|number| f64::from(number) * 0.6);
    let sampled: Vec<f32> =
        now.iter().zip(drift).map(|(now, drift)| (now + drift) as f32).collect();

    let [hiddens, weights, olds, gains] =
        [&hidden, &weight, &sampled, &advantages].map(|values| common::upload(&gpu, values));
    let labels = common::upload(&gpu, &actions);
    let [log_prob, entropy, lse] = [(); 3].map(|()| common::buffer(&gpu, ROWS * 4));
    let [by_log_prob, by_entropy, losses] = [(); 3].map(|()| common::buffer(&gpu, ROWS * 4));
    let hidden_gradient = common::buffer(&gpu, ROWS * DEPTH * 4);
    let weight_gradient = common::buffer(&gpu, CLASSES * DEPTH * 4);
    let read = [&log_prob, &entropy, &olds, &gains];
    let kernel = Kernel::new(&gpu, read, [&by_log_prob, &by_entropy, &losses]);

    let per_row = |buffer| Tensor::vector(buffer, Dtype::F32, ROWS);
    let of_hidden = |buffer| Tensor::matrix(buffer, Dtype::F32, ROWS, DEPTH);
    let of_weight = |buffer| Tensor::matrix(buffer, Dtype::F32, CLASSES, DEPTH);
    let given = || {
        LinearCrossEntropyInputs::default()
            .hidden(of_hidden(&hiddens))
            .weight(of_weight(&weights))
            .targets(Tensor::vector(&labels, Dtype::I32, ROWS))
    };
    let forward = LinearCrossEntropyOutputs::default()
        .log_prob(per_row(&log_prob))
        .entropy(per_row(&entropy))
        .lse(per_row(&lse));
    let backward = LinearCrossEntropyOutputs::default()
        .hidden_gradient(of_hidden(&hidden_gradient))
        .weight_gradient(of_weight(&weight_gradient));
    common::submit(&gpu, |encoder| {
        gpu.encode(encoder, &loss.request(given(), forward))?;
        kernel.encode(encoder);
        let given = given()
            .lse(per_row(&lse))
            .entropy(per_row(&entropy))
            .upstream_log_prob(per_row(&by_log_prob))
            .upstream_entropy(per_row(&by_entropy));
        gpu.encode(encoder, &loss.request(given, backward))
    })?;

    // The same in f64.
    let (mut objective, mut clipped) = (0.0, 0);
    let slopes = now.iter().zip(&sampled).zip(&advantages).map(|((now, sampled), &advantage)| {
        let (ratio, advantage) = ((now - f64::from(*sampled)).exp(), f64::from(advantage));
        let (gain, most) = (ratio * advantage, ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * advantage);
        objective -= gain.min(most) / ROWS as f64;
        clipped += usize::from(gain > most);
        if gain <= most { -gain / ROWS as f64 } else { 0.0 }
    });
    inputs.insert("upstream.log_prob".to_owned(), Array::float(&[ROWS], slopes.collect()));
    let bonus = vec![-BONUS / ROWS as f64; ROWS as usize];
    inputs.insert("upstream.entropy".to_owned(), Array::float(&[ROWS], bonus));
    objective -= BONUS * entropies.iter().sum::<f64>() / ROWS as f64;
    let expected = cpu::run(&loss, &inputs, &["grad.hidden", "grad.weight"])?;
    println!("loss {objective:.5}, {clipped} of {ROWS} rows are clipped");
    let sum: f64 = gpu.read_blocking(&per_row(&losses))?.to_f64().iter().sum();
    common::check(
        "loss",
        &Array::float(&[1], vec![sum]),
        &Array::float(&[1], vec![objective]),
        1e-4,
    )?;
    let found = gpu.read_blocking(&of_hidden(&hidden_gradient))?;
    common::check("∂hidden", &found, &expected["grad.hidden"], 1e-4)?;
    let found = gpu.read_blocking(&of_weight(&weight_gradient))?;
    common::check("∂weight", &found, &expected["grad.weight"], 1e-4)
}

/// The kernel of the policy loss, with its bindings.
struct Kernel {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
}

impl Kernel {
    fn new(gpu: &Gpu, read: [&wgpu::Buffer; 4], written: [&wgpu::Buffer; 3]) -> Self {
        let device = gpu.device();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("policy loss"),
            source: wgpu::ShaderSource::Wgsl(WGSL.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("policy loss"),
            layout: None,
            module: &module,
            entry_point: Some("clipped"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(read.into_iter().chain(written))
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, bindings }
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.dispatch_workgroups(ROWS.div_ceil(64) as u32, 1, 1);
    }
}
