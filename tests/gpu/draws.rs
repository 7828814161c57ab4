//! Classes that are drawn at random: the same integers as on the CPU.

use serde_json::json;
use surprisal::{Array, Arrays, Dtype, cpu};

use crate::support::{Context, named, parse, positive};

tests![the_same_integers];

fn the_same_integers(context: &Context) {
    for classes in [3_u32, 1000, 256_000, 1 << 24] {
        for distribution in ["uniform", "log_uniform", "alias"] {
            if distribution == "alias" && classes == 1 << 24 {
                continue;
            }
            let options = json!({
                "classes": classes, "count": 5001, "distribution": distribution, "seed": u64::MAX, "offset": 77,
            });
            let draw = parse("draw_samples", &options);
            let weights = || Array::float(&[classes.into()], positive(90, classes as usize));
            let inputs = match distribution {
                "alias" => named([("weights", weights())]),
                _ => Arrays::new(),
            };
            let run = context.gpu.run_arrays(&*draw, &inputs, Dtype::F32, &["samples"]).unwrap();
            let there = run.outcome_blocking().unwrap().0;
            let here = cpu::run(&*draw, &inputs, &["samples"]).unwrap();
            assert_eq!(there["samples"], here["samples"], "{options}");
        }
    }
}
