//! The Dice loss of images: one coefficient a channel, a sample, or over everything.

use surprisal::{
    Dice, Dtype, Error, Layout, Named, Padding, Per, Reduction, Request, Tensor, loss::Domain,
    testing,
};

use super::{Images, SHAPES, call, dtypes, masked};
use crate::support::{Context, Placed, Reference, matrix, storage, submit, tensors, vector, with};

tests![
    dice_of_channels,
    dice_of_masked_pixels,
    dice_of_samples,
    dice_over_gaps,
    dice_of_a_crop,
    dice_pads_rows
];

fn dice_of_channels(context: &Context) {
    for images in SHAPES {
        let inputs = masked(images);
        let plain = Dice::default().per(Per::Channel);
        for (loss, narrow) in [
            (plain.clone().bce(0.5), Dtype::F16),
            (plain.reduction(Reduction::None).smooth(0.0), Dtype::Bf16),
        ] {
            let count = if loss.reduction == Reduction::None { images.1 } else { 1 };
            let weighed = with(
                &inputs,
                [("row_weight", vector(&crate::support::positive(2, images.1 as usize)))],
            );
            let calls = [(&inputs, Dtype::F32), (&weighed, narrow)];
            for (inputs, dtype) in calls.into_iter().take(if images.0 == 3 { 2 } else { 1 }) {
                let reference = Reference::new(&loss, inputs, dtype, &["loss", "grad.logits"]);
                let layouts = images.layouts(dtype);
                for (nth, (_, layout)) in layouts.iter().enumerate() {
                    let outputs = [
                        ("loss", Layout::vector(Dtype::F32, count)),
                        ("grad.logits", layout.clone()),
                    ];
                    let place = |name: &str, dense: Layout| match name {
                        "logits" => layout.clone(),
                        "targets" => layouts[(nth + 1) % 4].1.clone(),
                        _ => dense,
                    };
                    reference.assert(&call(context, &loss, (inputs, dtype), &outputs, place));
                }
            }
        }
    }
}

/// A mask of one value a pixel, which may lie anywhere, or one of a value an element.
fn dice_of_masked_pixels(context: &Context) {
    let images = Images(3, 5, 35);
    let inputs = masked(images);
    let loss = Dice::default().per(Per::Channel).bce(0.5);
    let pixels = testing::numbers(Domain::Mask, 8, 105);
    let each = matrix(105, 1, pixels);
    let elements = matrix(105, 5, testing::numbers(Domain::Mask, 9, 525));
    let beside = Layout::matrix(Dtype::F32, 105, 1).row_stride(3).offset(1);
    let apart = Layout::matrix(Dtype::F32, 105, 1).class_stride(35).row_stride(41);
    let layouts = images.layouts(Dtype::F32);
    for (nth, (mask, own)) in [
        (&each, Layout::matrix(Dtype::F32, 105, 1)),
        (&each, beside),
        (&each, apart),
        (&elements, layouts[3].1.clone()),
    ]
    .into_iter()
    .enumerate()
    {
        let inputs = with(&inputs, [("mask", mask.clone())]);
        let reference = Reference::new(&loss, &inputs, Dtype::F32, &["loss", "grad.logits"]);
        let layout = &layouts[nth].1;
        let outputs = [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", layout.clone())];
        let place = |name: &str, _| if name == "mask" { own.clone() } else { layout.clone() };
        reference.assert(&call(context, &loss, (&inputs, Dtype::F32), &outputs, place));
    }
}

/// One coefficient a sample and channel: [N·C, H·W] without a copy, from channels in planes or
/// last.
fn dice_of_samples(context: &Context) {
    let Images(samples, channels, plane) = Images(3, 4, 30);
    let rows = samples * channels;
    let inputs = masked(Images(rows, plane, 1));
    let loss = Dice::default().reduction(Reduction::None);
    let reference = Reference::new(&loss, &inputs, Dtype::F32, &["loss", "grad.logits"]);
    let in_planes = Layout::matrix(Dtype::F32, rows, plane);
    // Element (n·C + c, p) is at (n·H·W + p)·C + c.
    let last = in_planes.clone().class_stride(channels);
    for layout in [in_planes, last] {
        let outputs = [("loss", Layout::vector(Dtype::F32, rows)), ("grad.logits", layout.clone())];
        let place = |_: &str, _| layout.clone();
        reference.assert(&call(context, &loss, (&inputs, Dtype::F32), &outputs, place));
    }
}

/// One coefficient over everything, whatever the layout.
fn dice_over_gaps(context: &Context) {
    for images in [Images(3, 5, 35), Images(1, 4, 16), Images(2, 200, 70)] {
        let inputs = masked(images);
        let loss = Dice::default().per(Per::Batch).bce(0.25);
        for &dtype in dtypes(images) {
            let reference = Reference::new(&loss, &inputs, dtype, &["loss", "grad.logits"]);
            for (_, layout) in images.layouts(dtype) {
                let outputs =
                    [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", layout.clone())];
                let place = |_: &str, _| layout.clone();
                reference.assert(&call(context, &loss, (&inputs, dtype), &outputs, place));
            }
        }
        let [planes, _, last, _] = images.layouts(Dtype::F32).map(|(_, layout)| layout);
        let gpu = &context.gpu;
        let placed = [("logits", planes), ("targets", last)]
            .map(|(name, layout)| (name.to_owned(), Placed::input(gpu, &inputs[name], layout)));
        let value = storage(gpu, 16);
        let outputs = Named::from([("loss".to_owned(), Tensor::vector(&value, Dtype::F32, 1))]);
        let error = gpu.prepare(&Request::new(&loss, tensors(&placed), outputs)).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
    }
}

/// The top of one image: nothing between the planes is read or written, with and without padding.
fn dice_of_a_crop(context: &Context) {
    let gpu = &context.gpu;
    let inputs = masked(Images(1, 2, 3));
    let crop = Layout::matrix(Dtype::F32, 3, 2).class_stride(5);
    for per in [Per::Batch, Per::Channel] {
        let loss = Dice::default().per(per).padding(Padding::Zero);
        let reference = Reference::new(&loss, &inputs, Dtype::F32, &["loss", "grad.logits"]);
        let outputs = [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", crop.clone())];
        let place = |_: &str, _| crop.clone();
        reference.assert(&call(context, &loss, (&inputs, Dtype::F32), &outputs, place));
        // The one-line form allocates a gradient that extends as far.
        let placed = ["logits", "targets"]
            .map(|name| (name.to_owned(), Placed::input(gpu, &inputs[name], crop.clone())));
        let run = gpu
            .run(&Request::new(&loss, tensors(&placed), Named::new()), &["loss", "grad.logits"])
            .unwrap();
        reference.assert(&run.read_blocking().unwrap());
    }
    // A part of a second image is refused.
    let inputs = masked(Images(1, 2, 7));
    let placed = ["logits", "targets"].map(|name| {
        let layout = Layout::matrix(Dtype::F32, 7, 2).class_stride(5);
        (name.to_owned(), Placed::input(gpu, &inputs[name], layout))
    });
    let loss = Dice::default().per(Per::Batch);
    let error =
        gpu.run(&Request::new(&loss, tensors(&placed), Named::new()), &["loss"]).unwrap_err();
    assert!(matches!(error, Error::WrongShape { .. }), "{error}");
}

/// Zeros are written between the rows of the tensor, whatever a coefficient covers.
fn dice_pads_rows(context: &Context) {
    let gpu = &context.gpu;
    let inputs = masked(Images(1, 3, 6));
    let apart = Layout::matrix(Dtype::F32, 6, 3).row_stride(7).offset(1);
    let placed = ["logits", "targets"]
        .map(|name| (name.to_owned(), Placed::input(gpu, &inputs[name], apart.clone())));
    for per in [Per::Row, Per::Channel, Per::Batch] {
        let mut gradient = Placed::output(gpu, apart.clone());
        let outputs = Named::from([("grad.logits".to_owned(), gradient.tensor())]);
        let loss = Dice::default().per(per).padding(Padding::Zero);
        submit(gpu, &Request::new(&loss, tensors(&placed), outputs));
        gradient.assert_zero_padding(gpu);
        gradient.assert_surroundings(gpu);
    }
}
