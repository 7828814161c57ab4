//! Images: windows over channels in planes or last, and images that no binding holds.

use std::collections::BTreeMap;

use surprisal::{
    BceWithLogits, CrossEntropy, Dtype, Error, Layout, Operation, Plan, Profile,
    plan::{Call, Dispatch, Operand},
};

use crate::{MIB, assert_within_limits, operands};

/// The plan of an element loss with its sum and gradient; `place` gives the layouts of the tensors.
fn elements(
    inputs: &[(&str, Layout)],
    gradient: &Layout,
    profile: &Profile,
) -> Result<Plan, Error> {
    let place = |first: usize, tensors: &[(&str, Layout)]| {
        let operand = |(index, (name, layout)): (usize, &(&str, Layout))| {
            let (name, layout) = ((*name).to_owned(), layout.clone());
            (
                name.clone(),
                Operand { name, layout, allocation: first + index, allocation_bytes: 1 << 40 },
            )
        };
        tensors.iter().enumerate().map(operand).collect::<BTreeMap<_, _>>()
    };
    let outputs = [("loss", Layout::vector(Dtype::F32, 1)), ("grad.logits", gradient.clone())];
    let loss = BceWithLogits::default();
    let call = Call::new(place(0, inputs), place(100, &outputs))
        .checked(&loss, profile.offset_alignment)?;
    loss.plan(&call, profile)
}

/// The values of a parameter in all dispatches of a kernel.
fn parameters(plan: &Plan, entry: &str, name: &str) -> Vec<u64> {
    let dispatches = plan.dispatches.iter().filter(|d| plan.kernels[d.kernel].entry == entry);
    let parameter = |dispatch: &Dispatch| {
        let fields = &plan.kernels[dispatch.kernel].fields;
        dispatch.params[fields.iter().position(|(field, _)| field == name).unwrap()].into()
    };
    dispatches.map(parameter).collect()
}

/// A few rows of an image [N, C, H, W] extend over as many planes as the whole image.
#[test]
fn an_image_that_no_binding_holds_is_refused() {
    let profile = Profile { binding_bytes: 4096, ..Profile::default() };
    let loss = CrossEntropy::default();
    let planned = |plane: u64| {
        let mut inputs =
            operands(0, &[("logits", Dtype::F32, &[600, 4]), ("targets", Dtype::I32, &[600])]);
        let logits = inputs.get_mut("logits").unwrap();
        logits.layout = logits.layout.clone().class_stride(plane);
        let outputs = operands(100, &[("loss", Dtype::F32, &[1])]);
        loss.plan(&Call::new(inputs, outputs).checked(&loss, profile.offset_alignment)?, &profile)
    };
    assert!(planned(200).is_ok());
    let Err(Error::Limit { what, found: 4800, .. }) = planned(300) else {
        panic!("{:?}", planned(300));
    };
    assert!(what.contains("image of `logits`"), "{what}");
}

/// Every window knows its first element, also in images of 2^32 elements and more.
#[test]
fn large_images_are_counted_by_planes() {
    let profile = Profile { element_block: 16_384, ..Profile::default() };
    for channels in [32, 33] {
        let plane: u64 = 512 * 512 * 512;
        let images = Layout::matrix(Dtype::F16, 2 * plane, channels).class_stride(plane);
        let plan =
            elements(&[("logits", images.clone()), ("targets", images.clone())], &images, &profile)
                .unwrap();
        assert_within_limits(&plan, &profile);
        let of = |name| parameters(&plan, "forward", name);
        let places = of("first_row").into_iter().zip(of("first_column")).zip(of("phase"));
        let mut start = 0;
        for (((row, column), phase), count) in places.zip(of("classes")) {
            assert!(column < channels && phase < plane && phase + count < 1 << 32);
            assert_eq!((row / plane * channels + column) * plane + phase, start);
            start += count;
        }
        assert_eq!(start, 2 * plane * channels);
    }
}

#[test]
fn odd_images_in_two_orders_are_windowed() {
    let profile = Profile::default();
    let planes = Layout::nchw(Dtype::F32, [40, 21, 513, 513]);
    let last = Layout::matrix(Dtype::F32, 40 * 513 * 513, 21);
    let plan = elements(&[("logits", planes.clone()), ("targets", last)], &planes, &profile);
    assert_within_limits(&plan.unwrap(), &profile);
}

/// Windows hold whole images and whole blocks if they are large enough.
#[test]
fn windows_of_images_are_whole_blocks() {
    let profile = Profile { element_block: 64, dispatch_elements: 100, ..Profile::default() };
    let planes = Layout::matrix(Dtype::F32, 8 * 16, 2).class_stride(16);
    let last = Layout::matrix(Dtype::F32, 8 * 16, 2);
    let plan = elements(&[("logits", planes.clone()), ("targets", last)], &planes, &profile);
    assert_eq!(parameters(&plan.unwrap(), "forward", "classes"), [64; 4]);
}

#[test]
fn weights_of_pixels_with_gaps_are_windowed() {
    let profile = Profile { binding_bytes: MIB, ..Profile::default() };
    let planes = Layout::nchw(Dtype::F32, [40, 3, 64, 64]);
    let weight = Layout::matrix(Dtype::F32, 40 * 64 * 64, 1).row_stride(16);
    let inputs = [("logits", planes.clone()), ("targets", planes.clone()), ("weight", weight)];
    assert_within_limits(&elements(&inputs, &planes, &profile).unwrap(), &profile);
}

/// A bit mask needs the memory order of the elements; a weight with one element a pixel may have
/// any layout.
#[test]
fn bits_beside_a_weight_of_pixels() {
    let profile = Profile { element_block: 64, dispatch_elements: 100, ..Profile::default() };
    let last = Layout::matrix(Dtype::F32, 200, 3);
    let inputs = [
        ("logits", last.clone()),
        ("targets", last.clone()),
        ("mask", Layout::vector(Dtype::U32, 19)),
        ("weight", Layout::nchw(Dtype::F32, [20, 1, 2, 5])),
    ];
    let windows = parameters(&elements(&inputs, &last, &profile).unwrap(), "forward", "classes");
    // An image has 30 elements, a word 32 bits.
    assert_eq!(windows, [480, 120]);
}

#[test]
fn odd_strides_neither_panic_nor_wrap() {
    let profile = Profile::default();
    let last = Layout::matrix(Dtype::F32, 4, 3);
    let planes = |class_stride, row_stride| Layout { class_stride, row_stride, ..last.clone() };
    let call = |logits: Layout| {
        elements(&[("logits", logits), ("targets", last.clone())], &last, &profile)
    };
    // A single image has no image after it, so its stride does not matter.
    assert_eq!(call(planes(4, 0)).unwrap().windows, 1);
    assert_eq!(call(planes(5, 0)).unwrap().windows, 1);
    for wide in [1 << 32, u64::MAX] {
        let refused = call(planes(wide, 0)).unwrap_err();
        assert!(matches!(refused, Error::ClassStride { found, .. } if found == wide), "{refused}");
    }
}
