//! Products as the score tiles of linear and pair losses make them.

use super::Matrices;
use surprisal::{
    Dtype, Gpu, Named, Prepared, Profile, Request, Result, Similarity, Tensor, Tile,
    plan::kernel::Kernel, wgpu,
};

/// Scores of queries and keys, which are a product and nothing else.
#[derive(Debug)]
pub(super) struct Score {
    /// The device, with the tile in its profile.
    gpu: Gpu,
    call: Option<Prepared>,
}

/// The tile that losses use on this adapter, and those that they use on other kinds of adapters. `large` says whether
/// they are those of large products, which drivers compile for seconds.
pub(super) fn tiles(gpu: &Gpu, large: bool) -> Vec<Score> {
    let own = gpu.profile().tile.clone();
    let mut tiles = vec![own.clone()];
    for other in [Profile::default(), Profile::default().software(8)] {
        // Words of 64 bits need a feature, which the adapter's own tile uses where it is there.
        let tile = Tile { wide: own.wide, ..other.tile };
        if !tiles.contains(&tile) {
            tiles.push(tile);
        }
    }
    let large_products = if large { 0 } else { u64::MAX };
    let score = |tile| {
        let profile = Profile { tile, large_products, ..gpu.profile().clone() };
        Score { gpu: gpu.with_profile(profile), call: None }
    };
    tiles.into_iter().map(score).collect()
}

impl Score {
    pub fn name(&self) -> String {
        let Tile { loads, lanes, rows, bands, .. } = &self.gpu.profile().tile;
        let columns = 4 * bands;
        format!("a score tile ({lanes} lanes, {rows} × {columns} a lane, loaded by {loads})")
    }

    pub fn bind(&mut self, matrices: &Matrices) -> Result<()> {
        let [rows, columns, depth] = matrices.extents;
        let [queries, keys] = &matrices.stored;
        let tensor = |name: &str, buffer, dtype, rows, columns| {
            (name.to_owned(), Tensor::matrix(buffer, dtype, rows, columns))
        };
        let inputs = Named::from([
            tensor("queries", queries, matrices.dtype, rows, depth),
            tensor("keys", keys, matrices.dtype, columns, depth),
        ]);
        let scores = tensor("scores", &matrices.product, Dtype::F32, rows, columns);
        let similarity = Similarity::default();
        let request = Request::new(&similarity, inputs, Named::from([scores]));
        self.call = Some(self.gpu.prepare(&request)?);
        Ok(())
    }

    /// Records the product alone, without what a call does before and after it.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(call) = &self.call {
            call.encode_kernels(pass, is_product);
        }
    }

    /// Records what a call does before and after its product.
    #[cfg(test)]
    pub fn record_rest(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(call) = &self.call {
            call.encode_kernels(pass, |kernel| !is_product(kernel));
        }
    }
}

fn is_product(kernel: &Kernel) -> bool {
    kernel.entry.starts_with("product")
}
