//! What a loss is compared with.

use serde_json::{Value, json};
use surprisal::{Gpu, Result, loss::Dim, wgpu};
use surprisal_cli::{
    bench::{BestProduct, CopyKernel, Timer, Workload},
    draft::Draft,
};

use super::What;

/// The least that the adapter needs for a call: what moves its bytes, or what multiplies as much.
pub enum Yardstick {
    /// A copy of the same bytes.
    Copy(CopyKernel),
    /// The best matrix product, for losses that are made of products.
    Product(BestProduct),
}

impl Yardstick {
    /// The yardstick of a call.
    pub fn new(gpu: &Gpu, timer: &Timer, draft: &Draft, workload: &Workload) -> Result<Self> {
        if workload.flops() == 0.0 {
            return Ok(Self::Copy(CopyKernel::new(gpu, timer, workload.distinct_bytes() / 2)?));
        }
        let extent = |dim| draft.extents.get(&dim).copied();
        let rows = extent(Dim::Rows).unwrap_or(1);
        let columns = extent(Dim::Classes).unwrap_or(rows);
        let depth = extent(Dim::Hidden).unwrap_or(1);
        Ok(Self::Product(BestProduct::new(gpu, timer, [rows, columns, depth], draft.dtype)?))
    }

    pub const fn what(&self) -> What {
        match self {
            Self::Copy(_) => What::Copy,
            Self::Product(_) => What::Product,
        }
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Self::Copy(copy) => copy.record(pass),
            Self::Product(product) => product.record(pass),
        }
    }

    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Copy(copy) => 2 * copy.bytes(),
            Self::Product(product) => product.bytes(),
        }
    }

    /// What is compared with, without its time.
    pub fn json(&self) -> Value {
        match self {
            Self::Copy(copy) => {
                let (workgroup, quads) = copy.fastest();
                let tried = copy.tried().map(|(workgroup, quads, ms)| {
                    json!({"workgroup": workgroup, "quads": quads, "best_ms": ms})
                });
                json!({
                    "bytes": copy.bytes(), "workgroup": workgroup, "quads": quads,
                    "tried": tried.collect::<Vec<_>>(),
                })
            }
            Self::Product(product) => {
                let tried =
                    product.tried().map(|(kernel, ms)| json!({"kernel": kernel, "best_ms": ms}));
                json!({
                    "extents": product.extents(), "flops": product.flops(),
                    "kernel": product.kernel(), "tried": tried.collect::<Vec<_>>(),
                })
            }
        }
    }

    /// How a loss compares, by milliseconds of the loss and of the yardstick; `flops` are those of the loss.
    pub fn compare(&self, [loss_ms, own_ms]: [f64; 2], flops: f64) -> Multiple {
        match self {
            Self::Copy(_) => Multiple { least_ms: own_ms, loss_ms, rate: None },
            Self::Product(product) => {
                let rate = product.flops() / own_ms;
                Multiple { least_ms: flops / rate, loss_ms, rate: Some(rate / 1e6) }
            }
        }
    }

    /// The multiple in words.
    pub fn describe(&self, multiple: &Multiple, flops: f64) -> String {
        let times = multiple.times();
        match self {
            Self::Copy(copy) => {
                let (workgroup, quads) = copy.fastest();
                format!(
                    "copy of the same bytes: {times:.2}× its time, {:.0} % of its speed (the fastest of {} \
                     copies: {workgroup} lanes, {quads} quad(s) a lane); it reads half of all input \
                     and output bytes and writes as many\n",
                    100.0 / times,
                    copy.tried().len(),
                )
            }
            Self::Product(product) => {
                let [rows, columns, depth] = product.extents();
                format!(
                    "products: {:.1} MFLOP, two operations a multiply-add of the scores (which a backward \
                     pass makes again) and of each matrix gradient\n\
                     best product of this adapter: {:.2} GFLOP/s, {rows} × {columns} × {depth} by {}, the \
                     fastest of {} kernels\n\
                     the loss takes {times:.2}× the {:.3} ms that its products need at this rate\n",
                    flops / 1e6,
                    multiple.rate.unwrap_or(f64::NAN),
                    product.kernel(),
                    product.tried().len(),
                    multiple.least_ms,
                )
            }
        }
    }
}

/// The time of a loss, as a multiple of the time that its yardstick needs for as much.
pub struct Multiple {
    /// Milliseconds of the loss.
    loss_ms: f64,
    /// Milliseconds that the yardstick needs for as many bytes or operations.
    least_ms: f64,
    /// GFLOP/s of the yardstick, if it is a product.
    rate: Option<f64>,
}

impl Multiple {
    fn times(&self) -> f64 {
        self.loss_ms / self.least_ms
    }

    /// What a report in JSON says of it.
    pub fn json(&self) -> Value {
        match self.rate {
            None => json!({ "copy_ms": self.least_ms, "loss_time_over_copy_time": self.times() }),
            Some(rate) => json!({
                "best_product_gflop_per_s": rate,
                "ms_at_best_product_rate": self.least_ms,
                "loss_time_over_time_at_best_product_rate": self.times(),
            }),
        }
    }
}
