//! A user's own losses, whose WGSL reads uniforms.

use surprisal::{
    ElementFunction, Elementwise, Linear, Operation, Reduction, Separable, SeparableRow,
};

/// The losses on stored scores, on the scores of a linear layer, and on single elements.
pub fn losses() -> Vec<Box<dyn Operation>> {
    let all = |reduction| -> [Box<dyn Operation>; 3] {
        let rows = || Separable::new(Margin).reduction(reduction);
        let elements = Elementwise::new(LogCosh).reduction(reduction);
        [Box::new(rows()), Box::new(Linear::new(rows())), Box::new(elements)]
    };
    [Reduction::Mean, Reduction::None].into_iter().flat_map(all).collect()
}

/// A user's row loss: squared distances from ±margin.
#[derive(Debug)]
struct Margin;

impl SeparableRow for Margin {
    const NAME: &'static str = "users_margin";
    const WGSL: &'static str = "
        fn term(label: u32, column: u32, z: f32) -> vec4<f32> {
            let wanted = select(-params.margin, params.margin, column == label);
            return vec4<f32>((z - wanted) * (z - wanted), 0.0, 0.0, 0.0);
        }
        fn row_loss(label: u32, sums: vec4<f32>) -> f32 { return sums.x; }
        fn slope(label: u32, column: u32, z: f32, sums: vec4<f32>) -> f32 {
            return 2.0 * (z - select(-params.margin, params.margin, column == label));
        }";

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        vec![("margin", 0.75)]
    }

    fn row(&self, label: usize, z: &[f64], gradient: &mut [f64]) -> f64 {
        z.iter().zip(gradient).enumerate().fold(0.0, |loss, (column, (z, g))| {
            let distance = z - if column == label { 0.75 } else { -0.75 };
            *g = 2.0 * distance;
            loss + distance * distance
        })
    }
}

/// A user's loss of one score and its target.
#[derive(Debug)]
pub struct LogCosh;

impl ElementFunction for LogCosh {
    const NAME: &'static str = "users_log_cosh";
    const WGSL: &'static str = "
        fn element_loss(z: f32, y: f32) -> f32 { return params.scale * log(cosh(z - y)); }
        fn element_slope(z: f32, y: f32) -> f32 { return params.scale * tanh(z - y); }";

    fn uniforms(&self) -> Vec<(&'static str, f64)> {
        vec![("scale", 2.0)]
    }

    fn at(&self, z: f64, y: f64) -> (f64, f64) {
        (2.0 * (z - y).cosh().ln(), 2.0 * (z - y).tanh())
    }
}
