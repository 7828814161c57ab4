//! Images: classes and channels in planes (NCHW) or last (NHWC), without a transposed copy.

pub(super) mod classes;
pub(super) mod dice;
pub(super) mod pytorch;

use serde_json::json;
use surprisal::{
    Array, Arrays, BceWithLogits, CrossEntropy, Dice, Dtype, Error, IgnoreIndex, Layout,
    LinearCrossEntropy, MaskedMean, Named, Operation, Per, Reduction, Request, Tensor,
    loss::Domain, testing,
};

use crate::{
    support::{
        Context, FLOATS, Placed, Reference, assert_same_bits, gaussian, in_turn, indices, matrix,
        named, parse, placed_inputs, set, storage, submit, tensors, with,
    },
    tiles::tiled,
};

tests![
    classes_in_planes,
    windows_of_images,
    bits_in_planes,
    images_of_two_sizes,
    tiles_in_planes,
    in_place,
    run_hands_planes_back,
    refused,
];

/// The numbers of images, channels, and pixels (height · width).
#[derive(Clone, Copy, Debug)]
struct Images(u64, u64, u64);

impl Images {
    fn pixels(self) -> u64 {
        self.0 * self.2
    }

    /// The layouts for the different places of the channels.
    fn layouts(self, dtype: Dtype) -> [(&'static str, Layout); 4] {
        let Self(_, channels, plane) = self;
        let last = Layout::matrix(dtype, self.pixels(), channels);
        let planes = last.clone().class_stride(plane);
        let apart = planes.clone().row_stride(channels * plane + 3).offset(5);
        let wide = last.clone().row_stride(channels + 3).offset(1);
        [("NCHW", planes), ("NCHW apart", apart), ("NHWC", last), ("NHWC apart", wide)]
    }
}

/// The types to test; their effect does not depend on the shape.
fn dtypes(images: Images) -> &'static [Dtype] {
    if images.0 == 3 { &FLOATS } else { &[Dtype::F32] }
}

const SHAPES: [Images; 5] =
    [Images(3, 5, 35), Images(1, 2, 64), Images(2, 21, 12), Images(4, 1, 6), Images(2, 1100, 3)];

/// Makes a call whose tensors have the layouts that `place` gives; returns the outputs as arrays.
fn call(
    context: &Context,
    loss: &dyn Operation,
    (inputs, dtype): (&Arrays, Dtype),
    outputs: &[(&str, Layout)],
    place: impl Fn(&str, Layout) -> Layout,
) -> Arrays {
    let gpu = &context.gpu;
    let input = |(name, array): (&String, &Array)| {
        let dtype = surprisal::stored_dtype(loss, name, dtype);
        let layout = place(name, Layout::dense(dtype, &array.shape));
        (name.clone(), Placed::input(gpu, array, layout))
    };
    let placed: Vec<(String, Placed)> = inputs.iter().map(input).collect();
    let outputs: Vec<(&str, Placed)> =
        outputs.iter().map(|(name, l)| (*name, Placed::output(gpu, l.clone()))).collect();
    let wanted = outputs.iter().map(|(name, placed)| ((*name).to_owned(), placed.tensor()));
    submit(gpu, &Request::new(loss, tensors(&placed), wanted.collect::<Named>()));
    for (_, placed) in &outputs {
        placed.assert_surroundings(gpu);
    }
    outputs.iter().map(|(name, placed)| ((*name).to_owned(), placed.array(gpu))).collect()
}

/// Scores and class indices of pixels.
fn labelled(images: Images) -> Arrays {
    let (rows, classes) = (images.pixels() as usize, images.1 as usize);
    let mut targets = testing::targets(4, rows, images.1);
    targets.iter_mut().skip(3).step_by(5).for_each(|target| *target = 255);
    named([("logits", gaussian(3, rows, classes)), ("targets", indices(&targets))])
}

/// Scores and masks of pixels.
fn masked(images: Images) -> Arrays {
    let (rows, channels) = (images.pixels() as usize, images.1 as usize);
    let targets = testing::numbers(Domain::Probability, 6, rows * channels);
    named([("logits", gaussian(5, rows, channels)), ("targets", matrix(rows, channels, targets))])
}

fn segmentation() -> CrossEntropy {
    CrossEntropy::default().ignore_index(IgnoreIndex::One(255))
}

fn classes_in_planes(context: &Context) {
    for images in SHAPES {
        let inputs = labelled(images);
        // The ignored pixels are NaN.
        let inputs =
            with(&inputs, [("logits", set(&inputs["logits"], 3 * images.1 as usize, f64::NAN))]);
        for &dtype in dtypes(images) {
            for loss in
                [segmentation(), segmentation().reduction(Reduction::None).label_smoothing(0.1)]
            {
                let per_row = loss.reduction == Reduction::None;
                let count = if per_row { images.pixels() } else { 1 };
                let reference = Reference::new(&loss, &inputs, dtype, &["loss", "grad.logits"]);
                for (_, layout) in images.layouts(dtype) {
                    let outputs = [
                        ("loss", Layout::vector(Dtype::F32, count)),
                        ("grad.logits", layout.clone()),
                    ];
                    let place =
                        |name: &str, dense| if name == "logits" { layout.clone() } else { dense };
                    reference.assert(&call(context, &loss, (&inputs, dtype), &outputs, place));
                }
            }
        }
    }
}

/// Whole images at a time, or a part of one, and what is one lane's is the same.
fn windows_of_images(context: &Context) {
    let images = Images(3, 5, 700);
    let (wanted, layouts) = (["loss", "grad.logits"], images.layouts(Dtype::F32));
    let positive = |seed: u64, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        Array::float(shape, crate::support::positive(seed, count))
    };
    let broadcast =
        [("pos_weight", positive(1, &[5])), ("weight", positive(2, &[images.pixels(), 1]))];
    let calls: [(Box<dyn Operation>, Arrays); 2] = [
        (Box::new(segmentation()), labelled(images)),
        (Box::new(BceWithLogits::default()), with(&masked(images), broadcast)),
    ];
    for (loss, inputs) in calls {
        let reference = Reference::new(loss.as_ref(), &inputs, Dtype::F32, &wanted);
        for elements in [500, 4_000, 9_000] {
            let gpu = context.with(|profile| {
                profile.element_block = 64;
                profile.dispatch_elements = elements;
            });
            let context = Context { gpu, adapter: context.adapter.clone() };
            for (_, layout) in &layouts {
                let outputs =
                    [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", layout.clone())];
                let place = |_: &str, dense: Layout| {
                    if dense.shape == layout.shape { layout.clone() } else { dense }
                };
                let found = call(&context, loss.as_ref(), (&inputs, Dtype::F32), &outputs, place);
                reference.assert(&found);
            }
        }
    }
}

/// Bits lie as the elements do.
fn bits_in_planes(context: &Context) {
    let images = Images(2, 3, 10);
    let inputs = masked(images);
    let layouts = images.layouts(Dtype::F32);
    let planes = &layouts[0].1;
    let mask = testing::numbers(Domain::Mask, 9, 60);
    let mut words = [0i64; 2];
    for (row, column) in (0..20).flat_map(|row| (0..3).map(move |column| (row, column))) {
        let (at, keep) = (planes.place(row, column).unwrap(), mask[(row * 3 + column) as usize]);
        words[at as usize / 32] |= (keep as i64) << (at % 32);
    }
    let loss = BceWithLogits::default().denominator(MaskedMean::Mask);
    let whole = with(&inputs, [("mask", matrix(20, 3, mask))]);
    let reference = Reference::new(&loss, &whole, Dtype::F32, &["loss", "grad.logits"]);
    let gpu = &context.gpu;
    let bits = Placed::input(gpu, &Array::int(&[2], words.to_vec()), Layout::vector(Dtype::U32, 2));
    let others = ["logits", "targets"]
        .map(|name| (name.to_owned(), Placed::input(gpu, &inputs[name], planes.clone())));
    let mut given = tensors(&others);
    given.insert("mask".to_owned(), bits.tensor());
    let gradient = Placed::output(gpu, planes.clone());
    let value = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
    let outputs = Named::from([
        ("grad.logits".to_owned(), gradient.tensor()),
        ("loss".to_owned(), value.tensor()),
    ]);
    submit(gpu, &Request::new(&loss, given.clone(), outputs.clone()));
    reference.assert(&named([("grad.logits", gradient.array(gpu)), ("loss", value.array(gpu))]));
    let apart = Placed::input(gpu, &inputs["targets"], layouts[1].1.clone());
    given.insert("targets".to_owned(), apart.tensor());
    let error = gpu.prepare(&Request::new(&loss, given, outputs)).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

/// Windows of a part of an image must be parts of an image in every tensor.
fn images_of_two_sizes(context: &Context) {
    let inputs = masked(Images(1, 2, 12));
    let inputs =
        named([("logits", inputs["logits"].clone()), ("target_probs", inputs["targets"].clone())]);
    let place =
        |name: &str, dense: Layout| dense.class_stride(if name == "target_probs" { 4 } else { 6 });
    let loss = CrossEntropy::default();
    let reference = Reference::new(&loss, &inputs, Dtype::F32, &["loss"]);
    let outputs = [("loss", Layout::vector(Dtype::F32, 1))];
    reference.assert(&call(context, &loss, (&inputs, Dtype::F32), &outputs, place));
    let gpu = context.with(|profile| profile.dispatch_elements = 16);
    let placed = ["logits", "target_probs"].map(|name| {
        let layout = place(name, Layout::matrix(Dtype::F32, 12, 2));
        (name.to_owned(), Placed::input(&gpu, &inputs[name], layout))
    });
    let error =
        gpu.run(&Request::new(&loss, tensors(&placed), Named::new()), &["loss"]).unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

/// One lane takes a pixel, and classes from four planes at once.
fn tiles_in_planes(context: &Context) {
    let gpu = context.with(tiled);
    let context = &Context { gpu, adapter: context.adapter.clone() };
    let images = Images(2, 21, 11);
    let calls: [(&dyn Operation, Arrays); 2] =
        [(&segmentation(), labelled(images)), (&BceWithLogits::default(), masked(images))];
    for (loss, inputs) in calls {
        for dtype in [Dtype::F32, Dtype::F16] {
            let reference = Reference::new(loss, &inputs, dtype, &["loss", "grad.logits"]);
            let layout = &images.layouts(dtype)[1].1;
            let outputs =
                [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", layout.clone())];
            let place = |_: &str, dense: Layout| {
                if dense.shape == layout.shape { layout.clone() } else { dense }
            };
            reference.assert(&call(context, loss, (&inputs, dtype), &outputs, place));
        }
    }
}

fn in_place(context: &Context) {
    let (gpu, images) = (&context.gpu, Images(2, 5, 21));
    let dice = Dice::default().per(Per::Channel);
    let calls: [(&dyn Operation, Arrays); 3] = [
        (&segmentation(), labelled(images)),
        (&BceWithLogits::default(), masked(images)),
        (&dice, masked(images)),
    ];
    for (turn, (loss, inputs)) in calls.into_iter().enumerate() {
        for dtype in in_turn(turn) {
            let reference = Reference::new(loss, &inputs, dtype, &["loss", "grad.logits"]);
            for (_, layout) in images.layouts(dtype) {
                let place = |(name, array): (&String, &Array)| {
                    let dense =
                        Layout::dense(surprisal::stored_dtype(loss, name, dtype), &array.shape);
                    let layout = if dense.shape.len() == 2 { layout.clone() } else { dense };
                    (name.clone(), Placed::input(gpu, array, layout))
                };
                let placed: Vec<(String, Placed)> = inputs.iter().map(place).collect();
                let value = Placed::output(gpu, Layout::vector(Dtype::F32, 1));
                let outputs = Named::from([("loss".to_owned(), value.tensor())]);
                submit(gpu, &Request::new(loss, tensors(&placed), outputs).gradient_in_place());
                let logits = &placed.iter().find(|(name, _)| name == "logits").unwrap().1;
                logits.assert_surroundings(gpu);
                reference.assert(&named([
                    ("grad.logits", logits.array(gpu)),
                    ("loss", value.array(gpu)),
                ]));
            }
        }
    }
}

/// The one-line form returns a gradient with the layout of its input.
fn run_hands_planes_back(context: &Context) {
    let (gpu, images) = (&context.gpu, Images(2, 5, 12));
    let (inputs, loss) = (masked(images), BceWithLogits::default());
    let planes = images.layouts(Dtype::F32)[0].1.clone();
    let placed = ["logits", "targets"]
        .map(|name| (name.to_owned(), Placed::input(gpu, &inputs[name], planes.clone())));
    let run = gpu
        .run(&Request::new(&loss, tensors(&placed), Named::new()), &["loss", "grad.logits"])
        .unwrap();
    let gradient = run.outputs().find(|(name, _)| *name == "grad.logits").unwrap().1.clone();
    assert_eq!(gradient.class_stride, 12);
    let mut found = run.read_blocking().unwrap();
    found.remove("status");
    Reference::new(&loss, &inputs, Dtype::F32, &["loss", "grad.logits"]).assert(&found);
    let again = gpu
        .run(&Request::new(&loss, tensors(&placed), Named::new()), &["loss", "grad.logits"])
        .unwrap();
    let mut again = again.read_blocking().unwrap();
    again.remove("status");
    assert_same_bits(&again, &found, "run to run");
}

fn refused(context: &Context) {
    let gpu = &context.gpu;
    let refuse =
        |loss: &dyn Operation, inputs: &Arrays, name: &str, change: fn(Layout) -> Layout| {
            let placed: Vec<(String, Placed)> = placed_inputs(gpu, loss, inputs, Dtype::F32)
                .into_iter()
                .map(|(given, placed)| {
                    if given != name {
                        return (given, placed);
                    }
                    let big = storage(gpu, 4096);
                    let layout = change(placed.layout.clone());
                    (given, Placed { buffer: big, layout, ..placed })
                })
                .collect();
            let value = storage(gpu, 16);
            let outputs = Named::from([("loss".to_owned(), Tensor::vector(&value, Dtype::F32, 1))]);
            gpu.prepare(&Request::new(loss, tensors(&placed), outputs)).unwrap_err()
        };
    let linear = named([
        ("hidden", gaussian(1, 6, 4)),
        ("weight", gaussian(2, 5, 4)),
        ("targets", indices(&[0, 1, 2, 3, 4, 0])),
    ]);
    let loss = LinearCrossEntropy::new(CrossEntropy::default());
    for name in ["hidden", "weight"] {
        let error = refuse(&loss, &linear, name, |layout| layout.class_stride(3));
        assert!(matches!(error, Error::ClassStride { found: 3, .. }), "{error}");
    }
    let inputs = labelled(Images(2, 5, 6));
    let error =
        refuse(&segmentation(), &inputs, "logits", |layout| Layout { class_stride: 0, ..layout });
    assert!(matches!(error, Error::ClassStride { found: 0, .. }), "{error}");
    // Images that would overlap each other.
    let error =
        refuse(&segmentation(), &inputs, "logits", |layout| layout.class_stride(6).row_stride(29));
    assert!(matches!(error, Error::WrongStride { least: 30, .. }), "{error}");
    let table = parse("mixed_columns", &json!({}));
    let error = refuse(table.as_ref(), &masked(Images(2, 5, 6)), "logits", |l| l.class_stride(6));
    assert!(matches!(error, Error::ClassStride { .. }), "{error}");
}
