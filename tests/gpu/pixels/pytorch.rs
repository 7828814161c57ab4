//! Images with the layouts of PyTorch, compared only with the results of PyTorch.

use surprisal::{Array, BceWithLogits, Dice, Dtype, Layout, Per, Reduction};

use super::{call, segmentation};
use crate::support::{Context, indices, matrix, named, vector, with};

tests![as_pytorch_does];

/// `F.cross_entropy` and `F.binary_cross_entropy_with_logits` of PyTorch 2.15 in f64 on [2, 3, 2, 2].
fn as_pytorch_does(context: &Context) {
    let planes = Layout::nchw(Dtype::F32, [2, 3, 2, 2]);
    let pixels = |values: Vec<f64>| {
        let at = |row, column| values[planes.place(row, column).unwrap() as usize];
        let pixel = |row| (0..3).map(move |column| (row, column));
        matrix(8, 3, (0..8).flat_map(pixel).map(|(row, column)| at(row, column)).collect())
    };
    let logits = pixels((0..24).map(|i| f64::from(i * 7 % 11 - 5) / 4.0).collect());
    let put = |_: &str, layout: Layout| {
        if layout.shape.len() == 2 { planes.clone() } else { layout }
    };
    let scalar = Layout::vector(Dtype::F32, 1);
    let outputs = [("loss", scalar.clone()), ("grad.logits", planes.clone())];
    let near = |actual: &Array, expected: &[f64]| {
        for (a, e) in actual.to_f64().iter().zip(expected) {
            assert!((a - e).abs() < 2e-7, "{a} for {e}");
        }
    };
    let labels = indices(&[0, 2, 255, 1, 1, 1, 2, 0]);
    let inputs = named([("logits", logits.clone()), ("targets", labels)]);
    let found = call(context, &segmentation(), (&inputs, Dtype::F32), &outputs, put);
    near(&found["loss"], &[1.504_804_861_204_35]);
    let gradient = [
        -0.121_742_278_621,
        0.055_574_971_305,
        0.0,
        0.104_382_732_743,
        0.094_630_256_271,
        0.015_922_495_864,
        0.0,
        -0.112_950_989_217,
        0.027_112_022_35,
        -0.071_497_467_17,
        0.0,
        0.008_568_256_474,
        0.055_574_971_305,
        0.021_114_864_237,
        0.104_382_732_743,
        -0.087_282_171_552,
        -0.126_934_646_993,
        -0.048_226_886_586,
        0.029_906_153_64,
        0.015_922_495_864,
        0.071_359_675_688,
        0.027_112_022_35,
        -0.134_288_886_384,
        0.071_359_675_688,
    ];
    near(&found["grad.logits"], &pixels(gradient.to_vec()).to_f64());
    let weighted = with(&inputs, [("weight", vector(&[0.5, 2.0, 1.0]))]);
    let found = call(context, &segmentation(), (&weighted, Dtype::F32), &outputs, put);
    near(&found["loss"], &[1.475_044_991_178_467_8]);
    let targets = pixels((0..24).map(|i| f64::from(i * 5 % 7) / 8.0).collect());
    let inputs =
        named([("logits", logits), ("targets", targets), ("pos_weight", vector(&[0.5, 2.0, 1.0]))]);
    let found = call(context, &BceWithLogits::default(), (&inputs, Dtype::F32), &outputs, put);
    near(&found["loss"], &[0.909_354_175_108_308_7]);
    let gradient = [
        0.009_279_172_451,
        0.004_810_032_925,
        0.004_968_824_725,
        0.027_759_109_16,
        -0.021_507_963_477,
        -0.021_615_335_365,
        0.017_242_634_304,
        0.020_833_333_333,
        -0.014_835_774_11,
        0.012_674_112_466,
        0.013_034_312_463,
        -0.021_970_827_549,
        0.009_035_187_433,
        0.008_556_170_217,
        0.032_387_494_216,
        0.003_083_181_015,
        -0.012_869_612_974,
        0.023_851_704_207,
        -0.026_041_666_667,
        -0.024_857_827_831,
        0.017_882_445_799,
        0.018_242_645_796,
        -0.016_762_494_216,
        0.010_310_805_467,
    ];
    near(&found["grad.logits"], &pixels(gradient.to_vec()).to_f64());
    let mut inputs = inputs;
    inputs.remove("pos_weight");
    let dice = Dice::default().per(Per::Channel).reduction(Reduction::None);
    let outputs = [("loss", Layout::vector(Dtype::F32, 3))];
    let found = call(context, &dice, (&inputs, Dtype::F32), &outputs, put);
    near(
        &found["loss"],
        &[0.519_163_685_364_819_8, 0.514_722_450_617_136, 0.561_595_477_208_752_1],
    );
}
