//! A user's own operation that is not a loss: a step of gradient descent on a list of tensors, with a learning rate
//! from the host for each tensor. The results are written over the parameters or to other tensors.

use std::sync::Arc;

use surprisal::{
    Arithmetic, Array, Arrays, Dtype, Operation, Plan, Profile, Result, Signature,
    loss::{About, Argument, Dim, Kind, Spread, list},
    plan::{
        Binding, Call, Dispatch, Role,
        kernel::{Access, Kernel, Scalar, Storage},
    },
};

/// `parameters` − rate·`gradient`, tensor by tensor.
#[derive(Debug)]
pub struct Descent;

const ANY: &[&[Dim]] = &[&[Dim::Rows, Dim::Classes], &[Dim::Rows]];

static ABOUT: About = About {
    name: "descent",
    summary: "A step down the gradient.",
    formula: "",
    pytorch: "",
    inputs: &[
        Argument::required("parameters", Kind::F32, ANY, "what is learned")
            .spread(Spread::Elements)
            .list(),
        Argument::optional("gradient", Kind::F32, ANY, "the way up")
            .spread(Spread::Elements)
            .list(),
        Argument::required("rates", Kind::F32, &[&[Dim::Parts]], "a rate a tensor").from_host(),
    ],
    outputs: &[
        Argument::optional("parameters", Kind::F32, ANY, "after the step")
            .spread(Spread::Elements)
            .list()
            .over("parameters"),
        Argument::optional("count", Kind::U32, &[&[Dim::One]], "tensors"),
    ],
    options: &[],
};

impl Signature for Descent {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn is_per_row(&self) -> bool {
        false
    }
}

const STEP: &str = "
    struct Params { count: u32, nth: u32 }
    @group(0) @binding(0) var<uniform> params: Params;
    @group(0) @binding(1) var<storage, read> rates: array<f32>;
    @group(0) @binding(2) var<storage, read> gradient: array<f32>;
    @compute @workgroup_size(64)
    fn step(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < params.count) {
            after[id.x] = before[id.x] - rates[params.nth] * gradient[id.x];
        }
    }
";
const BESIDE: &str = "
    @group(0) @binding(3) var<storage, read> before: array<f32>;
    @group(0) @binding(4) var<storage, read_write> after: array<f32>;
";
const OVER: &str = "@group(0) @binding(3) var<storage, read_write> before: array<f32>;";

impl Operation for Descent {
    fn plan(&self, call: &Call, _: &Profile) -> Result<Plan> {
        let mut plan = Plan { loss: "descent".to_owned(), windows: 1, ..Plan::default() };
        plan.constants.push(call.host["rates"].to_bytes(Dtype::F32));
        for (nth, name) in call.list("parameters").into_iter().enumerate() {
            if call.wants(name) {
                step(&mut plan, call, name, nth as u32);
            }
        }
        Ok(plan)
    }

    fn reference(&self, inputs: &Arrays, wanted: &[&str], _: Arithmetic) -> Result<Arrays> {
        let rates = inputs["rates"].to_f64();
        let names = list::names("parameters", inputs.keys());
        let outputs = names.into_iter().zip(rates).filter(|(name, _)| wanted.contains(name));
        let output = |(name, rate): (&str, f64)| {
            let gradient = inputs[&name.replace("parameters", "gradient")].to_f64();
            let values = inputs[name].to_f64().into_iter().zip(gradient);
            let values = values.map(|(value, gradient)| value - rate * gradient).collect();
            (name.to_owned(), Array::float(&inputs[name].shape, values))
        };
        Ok(outputs.map(output).collect())
    }
}

/// Adds the step of one tensor.
fn step(plan: &mut Plan, call: &Call, name: &str, nth: u32) {
    let gradient = name.replace("parameters", "gradient");
    let (input, output) = (Role::Input(name.into()), Role::Output(name.into()));
    let (read, write) = (Access::Read, Access::ReadWrite);
    let in_place = call.is_in_place(name);
    let streams = [
        ("rates", Role::Constant(0), read),
        ("gradient", Role::Input(gradient.into()), read),
        ("before", input, if in_place { write } else { read }),
        ("after", output, write),
    ];
    let streams = &streams[..if in_place { 3 } else { 4 }];
    let bytes = |role: &Role| match role {
        Role::Constant(_) => 0..plan.constants[0].len() as u64,
        Role::Output(name) => call.outputs[&**name].layout.byte_range().unwrap(),
        Role::Input(name) => call.inputs[&**name].layout.byte_range().unwrap(),
        Role::Scratch => unreachable!(),
    };
    let count = call.inputs[name].layout.len();
    let wgsl =
        if in_place { STEP.replace("after[", "before[") + OVER } else { STEP.to_owned() + BESIDE };
    plan.kernels.push(Arc::new(Kernel {
        label: format!("descent.{name}"),
        entry: "step".into(),
        wgsl: wgsl.into(),
        storage: streams.iter().map(|(name, _, access)| storage(name, *access)).collect(),
        fields: ["count", "nth"].map(|name| (name.into(), Scalar::U32)).to_vec(),
        overrides: Vec::new(),
    }));
    let bindings = streams.iter().map(|(_, role, access)| {
        let bytes = bytes(role);
        let size = bytes.end - bytes.start;
        Binding { role: role.clone(), offset: bytes.start, size, access: *access }
    });
    plan.dispatches.push(Dispatch {
        kernel: plan.kernels.len() - 1,
        bindings: bindings.collect(),
        params: vec![count as u32, nth],
        workgroups: [count.div_ceil(64) as u32, 1, 1],
    });
}

fn storage(name: &'static str, access: Access) -> Storage {
    let stored_as = (access == Access::ReadWrite).then_some("after".into());
    Storage {
        name: name.into(),
        access,
        element: "f32".into(),
        floats: Some(Dtype::F32),
        stored_as,
    }
}
