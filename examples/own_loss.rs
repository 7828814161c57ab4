//! A user's own loss: one-versus-rest logistic loss, Σ_c softplus(z_c) − z_y, first on stored scores, then on the
//! scores of a linear layer, which are never stored.

use surprisal::{Gpu, Linear, Operation, Separable, SeparableRow, testing};

#[derive(Debug)]
struct OneVersusRest;

impl SeparableRow for OneVersusRest {
    const NAME: &'static str = "one_versus_rest";
    const WGSL: &'static str = "
        fn softplus(z: f32) -> f32 {
            return max(z, 0.0) + log(1.0 + exp(-abs(z)));
        }
        fn term(label: u32, column: u32, z: f32) -> vec4<f32> {
            return vec4<f32>(softplus(z) - select(0.0, z, column == label), 0.0, 0.0, 0.0);
        }
        fn row_loss(label: u32, sums: vec4<f32>) -> f32 {
            return sums.x;
        }
        fn slope(label: u32, column: u32, z: f32, sums: vec4<f32>) -> f32 {
            return 1.0 / (1.0 + exp(-clamp(z, -80.0, 80.0))) - select(0.0, 1.0, column == label);
        }";

    fn row(&self, label: usize, z: &[f64], gradient: &mut [f64]) -> f64 {
        let mut loss = 0.0;
        for (class, (&z, g)) in z.iter().zip(gradient).enumerate() {
            let hit = f64::from(class == label);
            loss += z.max(0.0) + (-z.abs()).exp().ln_1p() - hit * z;
            *g = 1.0 / (1.0 + (-z).exp()) - hit;
        }
        loss
    }
}

fn main() -> surprisal::Result<()> {
    let gpu = Gpu::open_blocking(None)?;
    let losses: [&dyn Operation; 2] =
        [&Separable::new(OneVersusRest), &Linear::new(Separable::new(OneVersusRest))];
    for loss in losses {
        for checked in testing::check(loss, &gpu)? {
            println!("{:<16} {checked}", loss.about().name);
            if !checked.comparison.passed {
                std::process::exit(1);
            }
        }
    }
    Ok(())
}
