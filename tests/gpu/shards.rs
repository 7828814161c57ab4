//! Losses whose columns are split into shards: statistics are made, gathered, and closed on every shard.

pub(super) mod losses;
mod whole;

use serde_json::json;
use surprisal::{Arrays, Dtype, Operation, cpu};
use whole::{contrasts, labelled, layers, pairs, slice};

use crate::{
    support::{
        Context, check_status, gaussian, in_blocks, indices, matrix, named, outcome, parse, vector,
        with,
    },
    tiles::tiled,
};

tests![blocks_of_columns, top_of_shards, live_columns_elsewhere, many_queries, refusals,];

/// With a budget below a row of each shard, its columns are cut into blocks, both before and after the statistics of
/// all shards are gathered.
fn blocks_of_columns(context: &Context) {
    // With eight lanes a row, 128 columns make a block.
    let gpu = context.with(tiled);
    let cuts = [0, 250, 500];
    let run = |dtype| {
        let gpu = &gpu;
        move |loss: &dyn Operation, inputs: &Arrays, wanted: &[&str]| {
            in_blocks(gpu, loss, inputs, dtype, wanted)
        }
    };
    let options = json!({"chunk_bytes": 1000, "label_smoothing": 0.1});
    let unit = json!({"chunk_bytes": 1000, "normalize": true, "target_margin": 0.3});
    for whole in layers(&options, [23, 500, 9]).into_iter().chain(layers(&unit, [23, 500, 9])) {
        // The type matters only for the inputs: the scores and everything made from them are f32.
        for dtype in [Dtype::F32, Dtype::Bf16] {
            whole.check_parts(&cuts, dtype, &run(dtype));
        }
    }
    let run = run(Dtype::F32);
    for (options, queries) in [
        (json!({"normalize": true, "chunk_bytes": 1000}), 17),
        (json!({"chunk_bytes": 1000, "reduction": "none"}), 17),
        (json!({"normalize": true, "symmetric": true, "chunk_bytes": 1000}), 500),
    ] {
        contrasts(options, [queries, 500]).check_parts(&cuts, Dtype::F32, &run);
    }
    labelled(json!({"chunk_bytes": 1000}), 500).check_parts(&cuts, Dtype::F32, &run);
}

/// The k best of all keys are among the k best of each shard; on a tie the lowest index comes first.
fn top_of_shards(context: &Context) {
    let mut keys = gaussian(86, 40, 6).to_f64();
    keys.copy_within(6 * 3..6 * 4, 6 * 20);
    let inputs = named([("queries", gaussian(87, 9, 6)), ("keys", matrix(40, 6, keys))]);
    let loss = parse("similarity", &json!({"k": 5, "normalize": true}));
    let wanted = ["top_scores", "top_indices"];
    let (whole, _) = outcome(&context.gpu, &*loss, &inputs, Dtype::F32, &wanted);
    let mut lists = vec![Vec::new(); 9];
    for (from, to) in [(0, 11), (11, 20), (20, 40)] {
        let part = with(&inputs, [("keys", slice(&inputs["keys"], 0, from, to))]);
        let (top, _) = outcome(&context.gpu, &*loss, &part, Dtype::F32, &wanted);
        let indices = top["top_indices"].to_i64();
        for (at, (score, index)) in top["top_scores"].to_f64().into_iter().zip(indices).enumerate()
        {
            lists[at / 5].push((score, index + from as i64));
        }
    }
    for (row, list) in lists.iter_mut().enumerate() {
        list.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (rank, (score, index)) in list.iter().take(5).enumerate() {
            assert_eq!(whole["top_scores"].to_f64()[5 * row + rank], *score);
            assert_eq!(whole["top_indices"].to_i64()[5 * row + rank], *index, "{list:?}");
        }
    }
}

/// A row whose finite columns are in other shards is not a bad row, though it would be one alone.
fn live_columns_elsewhere(context: &Context) {
    let dead = matrix(2, 3, vec![f64::NEG_INFINITY; 6]);
    let inputs = named([("logits", dead), ("targets", indices(&[5, 6]))]);
    let shard = parse("cross_entropy", &json!({"shard": {"first": 4, "classes": 9}}));
    let status = check_status(&context.gpu, &*shard, &inputs, Dtype::F32, &["statistics"]);
    assert_eq!(status.bad_rows, 0, "cross_entropy");
    let nan = with(&inputs, [("logits", matrix(2, 3, vec![f64::NAN; 6]))]);
    let status = check_status(&context.gpu, &*shard, &nan, Dtype::F32, &["statistics"]);
    assert_eq!(status.bad_rows, 2, "NaN is bad wherever it is");
    // The only key of the shard is the query itself.
    let features = gaussian(60, 3, 4);
    let keys = slice(&features, 0, 1, 2);
    let labels = indices(&[0, 0, 0]);
    let inputs = named([("features", features), ("keys", keys), ("labels", labels)]);
    let shard = parse("sup_con", &json!({"shard": {"first": 1, "classes": 3}}));
    let status = check_status(&context.gpu, &*shard, &inputs, Dtype::F32, &["statistics"]);
    assert_eq!(status.bad_rows, 0, "sup_con");
}

/// A chunk of few keys holds many queries: more than the 65,535 iterations after which some drivers end every loop.
fn many_queries(context: &Context) {
    let queries = 70_000;
    let inputs = named([("queries", gaussian(61, queries, 1)), ("keys", gaussian(62, 8, 1))]);
    let options = json!({"symmetric": true, "shard": {"first": 16, "classes": queries}});
    let loss = parse("info_nce", &options);
    crate::support::check(&context.gpu, &*loss, &inputs, Dtype::F32, &["column_lse"]);
}

/// What a shard cannot know alone is refused, by name.
fn refusals(context: &Context) {
    let shard = parse("cross_entropy", &json!({"shard": {"first": 4, "classes": 9}}));
    let logits =
        |classes| named([("logits", gaussian(44, 2, classes)), ("targets", indices(&[0, 8]))]);
    let gathered = ("statistics", matrix(4, 8, vec![0.0; 32]));
    for (inputs, wanted, named) in [
        (logits(5), "loss", "statistics"),
        (logits(5), "grad.logits", "statistics"),
        (logits(6), "statistics", "logits"),
        (with(&logits(5), [("weight", vector(&[1.0; 5]))]), "statistics", "weight"),
        (with(&logits(5), [("lse", vector(&[1.0; 2]))]), "grad.logits", "lse"),
        (with(&logits(5), [gathered.clone()]), "rank", "rank"),
        (with(&logits(5), [("statistics", matrix(3, 8, vec![0.0; 24]))]), "loss", "statistics"),
    ] {
        let device = context.gpu.run_arrays(&*shard, &inputs, Dtype::F32, &[wanted]).unwrap_err();
        let host = cpu::run(&*shard, &inputs, &[wanted]).unwrap_err();
        assert_eq!(device.to_string(), host.to_string());
        assert!(host.to_string().contains(named), "{host}");
    }
    let pairs = with(&pairs(3, 3, 2), [("lse", vector(&[1.0; 3]))]);
    let info_nce = parse("info_nce", &json!({}));
    let device = context.gpu.run_arrays(&*info_nce, &pairs, Dtype::F32, &["loss"]).unwrap_err();
    let host = cpu::run(&*info_nce, &pairs, &["loss"]).unwrap_err();
    assert!(device.to_string().contains("lse") && host.to_string().contains("lse"), "{host}");
    let far = json!({"shard": {"first": 0, "classes": 1_u64 << 32}});
    assert!((surprisal::operations::find("cross_entropy").unwrap().parse)(&far).is_err());
    let whole = parse("cross_entropy", &json!({}));
    let inputs = with(&logits(9), [gathered]);
    assert!(context.gpu.run_arrays(&*whole, &inputs, Dtype::F32, &["loss"]).is_err());
    assert!(
        (surprisal::operations::find("cross_entropy").unwrap().parse)(
            &json!({"shard": {"first": 9, "classes": 9}})
        )
        .is_err()
    );
}
