//! The Dice loss over the classes of a softmax, of images with one class a pixel.

use serde_json::json;
use surprisal::{
    Array, Arrays, Dice, DiceActivation, DiceClassWeight, Dtype, IgnoreIndex, Layout, Per,
    Reduction, Status, loss::Domain, testing,
};

use super::{Images, call, labelled};
use crate::support::{
    Context, Placed, Reference, bits, check, check_status, gaussian, indices, matrix, named, parse,
    placed_inputs, positive, set, submit, tensors, vector, with,
};

tests![
    dice_of_classes,
    dice_of_all_classes,
    dice_of_classes_in_windows,
    dice_of_classes_in_place,
    dice_of_unlikely_classes,
    dice_of_bad_pixels,
    dice_of_no_pixels,
];

const GRADIENT: [&str; 2] = ["loss", "grad.logits"];

fn classes() -> Dice {
    Dice::default().activation(DiceActivation::Softmax).ignore_index(IgnoreIndex::One(255))
}

/// Labelled images whose first ignored pixel is NaN.
fn sample(images: Images) -> Arrays {
    let inputs = labelled(images);
    let first = 3 * images.1 as usize;
    with(&inputs, [("logits", set(&inputs["logits"], first, f64::NAN))])
}

/// The same with a mask of pixels and weights of classes.
fn weighed(images: Images) -> Arrays {
    let pixels = images.pixels() as usize;
    let mut mask = testing::numbers(Domain::Mask, 8, pixels);
    mask.iter_mut().step_by(4).for_each(|m| *m *= 0.5);
    let weights = positive(2, images.1 as usize);
    with(&sample(images), [("mask", matrix(pixels, 1, mask)), ("row_weight", vector(&weights))])
}

/// Few classes in every layout, and many classes. How a 16-bit type is loaded does not depend on the rest.
fn dice_of_classes(context: &Context) {
    let (few, many) = (Images(3, 5, 35), Images(2, 1100, 3));
    let plain = classes().cross_entropy_weight(0.5);
    let each = classes().reduction(Reduction::None).smooth(0.0);
    for (loss, images, inputs, dtype, layouts) in [
        (&plain, few, sample(few), Dtype::F32, 0..4),
        (&each, few, weighed(few), Dtype::F16, 0..1),
        (&plain, many, sample(many), Dtype::F32, 2..3),
    ] {
        let count = if loss.reduction == Reduction::None { images.1 } else { 1 };
        let reference = Reference::new(loss, &inputs, dtype, &GRADIENT);
        for (_, layout) in &images.layouts(dtype)[layouts] {
            let outputs =
                [("loss", Layout::vector(Dtype::F32, count)), ("grad.logits", layout.clone())];
            let place = |name: &str, dense| if name == "logits" { layout.clone() } else { dense };
            reference.assert(&call(context, loss, (&inputs, dtype), &outputs, place));
        }
    }
}

/// One coefficient over all classes, with equal weights or those of generalised Dice.
fn dice_of_all_classes(context: &Context) {
    let images = Images(3, 5, 35);
    let joint = classes().per(Per::Batch);
    let masked = with(&weighed(images), [("row_weight", vector(&[2.0]))]);
    for (loss, inputs, dtype) in [
        (joint.clone().cross_entropy_weight(0.5), sample(images), Dtype::F32),
        (joint.class_weight(DiceClassWeight::InverseSquare).smooth(0.0), masked, Dtype::F16),
    ] {
        let reference = Reference::new(&loss, &inputs, dtype, &GRADIENT);
        let layout = &images.layouts(dtype)[0].1;
        let outputs = [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", layout.clone())];
        let place = |name: &str, dense| if name == "logits" { layout.clone() } else { dense };
        reference.assert(&call(context, &loss, (&inputs, dtype), &outputs, place));
    }
    // Two classes have no pixel, and one is unlikely everywhere.
    let z = (0..9).fold(gaussian(7, 9, 5), |z, row| set(&z, row * 5 + 4, -100.0));
    let targets = ("targets", indices(&[0, 1, 1, 1, 0, 1, 2, 1, 255]));
    for smooth in [0.0, 1.0] {
        let loss = classes().per(Per::Batch).class_weight(DiceClassWeight::InverseSquare);
        let inputs = named([("logits", z.clone()), targets.clone()]);
        check(&context.gpu, &loss.smooth(smooth), &inputs, Dtype::F32, &GRADIENT);
    }
}

/// Pixels in several windows, and few classes of many pixels in segments of their own.
fn dice_of_classes_in_windows(context: &Context) {
    let images = Images(3, 5, 700);
    let inputs = weighed(images);
    let loss = classes().cross_entropy_weight(2.0);
    let reference = Reference::new(&loss, &inputs, Dtype::F32, &GRADIENT);
    for elements in [500, 4_000] {
        let gpu = context.with(|profile| profile.dispatch_elements = elements);
        let context = Context { gpu, adapter: context.adapter.clone() };
        for (_, layout) in images.layouts(Dtype::F32) {
            let outputs =
                [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", layout.clone())];
            let place = |name: &str, dense| if name == "logits" { layout.clone() } else { dense };
            reference.assert(&call(&context, &loss, (&inputs, Dtype::F32), &outputs, place));
        }
    }
}

fn dice_of_classes_in_place(context: &Context) {
    let (gpu, images) = (&context.gpu, Images(2, 5, 21));
    let (loss, inputs) = (classes().cross_entropy_weight(0.5), sample(images));
    let reference = Reference::new(&loss, &inputs, Dtype::F32, &GRADIENT);
    for (_, layout) in images.layouts(Dtype::F32) {
        let mut placed = placed_inputs(gpu, &loss, &inputs, Dtype::F32);
        for (name, placed) in &mut placed {
            if name == "logits" {
                *placed = Placed::input(gpu, &inputs["logits"], layout.clone());
            }
        }
        let value = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
        let outputs = [("loss".to_owned(), value.tensor())].into();
        submit(gpu, &surprisal::Request::new(&loss, tensors(&placed), outputs).gradient_in_place());
        let logits = &placed.iter().find(|(name, _)| name == "logits").unwrap().1;
        logits.assert_surroundings(gpu);
        reference.assert(&named([("grad.logits", logits.array(gpu)), ("loss", value.array(gpu))]));
    }
}

/// Classes far below the others, alone or all of them far from 0: sums of tiny probabilities keep their quotient.
fn dice_of_unlikely_classes(context: &Context) {
    let targets = ("targets", indices(&[0, 2, 1, 0, 2, 2, 0]));
    for smooth in [0.0, 1e-30, 1.0, 1e10] {
        for low in [-30.0, -80.0, -110.0, -1e5, -3e38, f64::NEG_INFINITY] {
            let mut z = gaussian(1, 7, 5);
            for row in 0..7 {
                z = set(&z, row * 5 + 3, low);
            }
            let loss = classes().smooth(smooth).reduction(Reduction::None);
            check(
                &context.gpu,
                &loss,
                &named([("logits", z), targets.clone()]),
                Dtype::F32,
                &GRADIENT,
            );
        }
    }
    // A common offset, rounded before so that both have the same digits.
    let z = gaussian(2, 7, 5).rounded(Dtype::Bf16).to_f64();
    for offset in [1e4, -1e4] {
        let z = matrix(7, 5, z.iter().map(|z| z + offset).collect()).rounded(Dtype::F32);
        let inputs = named([("logits", z), targets.clone()]);
        check(&context.gpu, &classes().cross_entropy_weight(1.0), &inputs, Dtype::F32, &GRADIENT);
    }
    // Sure of the right class, sure of a wrong one, and a target that cannot be.
    for ahead in [20.0, 60.0, 3e38] {
        let z = set(&set(&gaussian(3, 7, 5), 0, ahead), 5, ahead);
        let inputs = named([("logits", z), targets.clone()]);
        check(&context.gpu, &classes().cross_entropy_weight(0.5), &inputs, Dtype::F32, &GRADIENT);
    }
    let z = set(&gaussian(4, 7, 5), 0, f64::NEG_INFINITY);
    let inputs = named([("logits", z), targets]);
    check(&context.gpu, &classes().cross_entropy_weight(0.5), &inputs, Dtype::F32, &GRADIENT);
    check(&context.gpu, &classes(), &inputs, Dtype::F32, &GRADIENT);
}

/// A bad pixel spoils every coefficient, and is counted; what is ignored or masked does not.
fn dice_of_bad_pixels(context: &Context) {
    let gpu = &context.gpu;
    let plain = named([("logits", gaussian(5, 6, 4)), ("targets", indices(&[0, 3, 255, 1, 2, 3]))]);
    let mask = ("mask", matrix(6, 1, vec![1.0, 0.0, 1.0, 1.0, 0.5, 1.0]));
    let found = |inputs: &Arrays| -> Status {
        for reduction in ["mean", "none"] {
            let options = json!({"activation": "softmax", "ignore_index": 255,
                "reduction": reduction, "cross_entropy_weight": 0.5});
            check(gpu, &*parse("dice", &options), inputs, Dtype::F32, &GRADIENT);
        }
        check(gpu, &classes().per(Per::Batch), inputs, Dtype::F32, &GRADIENT);
        check_status(gpu, &classes(), inputs, Dtype::F32, &GRADIENT)
    };
    let bad = |at: usize, value: f64| with(&plain, [("logits", set(&plain["logits"], at, value))]);
    for value in [f64::NAN, f64::INFINITY] {
        assert_eq!(found(&bad(9, value)).bad_rows, 0, "ignored");
        assert_eq!(found(&with(&bad(5, value), [mask.clone()])).bad_rows, 0, "masked");
        assert_eq!(found(&bad(2, value)).bad_rows, 1);
        let still = with(&bad(2, value), [("upstream", vector(&[0.0]))]);
        for loss in [classes(), classes().per(Per::Batch)] {
            let (outputs, _) = check(gpu, &loss, &still, Dtype::F32, &GRADIENT);
            assert!(bits(&outputs["grad.logits"]).iter().all(|&bits| bits << 1 == 0), "0 wins");
        }
    }
    for target in [4, -1, 1_i64 << 40] {
        let inputs = with(&plain, [("targets", indices(&[0, 3, 255, target, 2, 3]))]);
        let status = found(&inputs);
        assert_eq!((status.bad_rows, status.bad_targets), (0, 1));
        assert_eq!(status.first_bad_target, Some((3, target)));
    }
    let poisoned = with(&plain, [("mask", matrix(6, 1, vec![1.0, f64::NAN, 1.0, 1.0, 1.0, 1.0]))]);
    assert_eq!(found(&poisoned).bad_rows, 1);
}

/// Without pixels there is no coefficient; where all are ignored or masked, the masks are empty.
fn dice_of_no_pixels(context: &Context) {
    let gpu = &context.gpu;
    let wanted = ["loss", "grad.logits", "sum", "denominator", "count"];
    let none = named([("logits", Array::float(&[0, 3], vec![])), ("targets", indices(&[]))]);
    let (outputs, _) = check(gpu, &classes(), &none, Dtype::F32, &wanted);
    assert!(outputs["loss"].to_f64()[0].is_nan());
    let ignored = named([("logits", gaussian(6, 4, 3)), ("targets", indices(&[255; 4]))]);
    let masked = named([
        ("logits", gaussian(6, 4, 3)),
        ("targets", indices(&[0, 1, 2, 0])),
        ("mask", matrix(4, 1, vec![0.0; 4])),
    ]);
    let joint = classes().per(Per::Batch).class_weight(DiceClassWeight::InverseSquare);
    check(gpu, &joint, &none, Dtype::F32, &wanted);
    for (inputs, loss) in [(&ignored, classes()), (&masked, classes()), (&ignored, joint)] {
        for smooth in [0.0, 1.0] {
            let loss = loss.clone().smooth(smooth).cross_entropy_weight(0.5);
            let (outputs, _) = check(gpu, &loss, inputs, Dtype::F32, &wanted);
            assert_eq!(outputs["loss"].to_f64(), [0.0]);
            assert!(outputs["grad.logits"].to_f64().iter().all(|&g| g == 0.0));
        }
    }
}
