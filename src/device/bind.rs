//! Binds the dispatches of a plan to buffers.

use std::collections::HashMap;

use crate::{
    data::error::{Error, Result},
    device::{gpu::Gpu, memory::Counted, parameters::Parameters, pipeline, recall::Planned},
    plan::{Binding, Plan, Role},
};

/// A tensor that a call is bound to.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub role: Role,
    pub buffer: wgpu::Buffer,
    /// The first byte of the tensor, rounded down to the alignment of bindings.
    pub first_byte: u64,
}

/// Which dispatches share a bind group: those that run one kernel on the same bytes.
#[derive(Debug)]
pub(crate) struct Groups {
    /// The first dispatch of each group.
    first: Vec<usize>,
    /// The group of each dispatch.
    of: Vec<usize>,
}

impl Groups {
    /// The groups of a plan.
    pub fn new(plan: &Plan) -> Self {
        let mut known = HashMap::new();
        let mut groups = Self { first: Vec::new(), of: Vec::with_capacity(plan.dispatches.len()) };
        for (index, dispatch) in plan.dispatches.iter().enumerate() {
            let next = known.len();
            let group = *known.entry((dispatch.kernel, &dispatch.bindings)).or_insert(next);
            if group == next {
                groups.first.push(index);
            }
            groups.of.push(group);
        }
        groups
    }

    /// The group of a dispatch.
    pub fn of(&self, dispatch: usize) -> Option<usize> {
        self.of.get(dispatch).copied()
    }
}

/// What the bindings of a plan are bound to.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    pub planned: &'a Planned,
    pub tensors: &'a [Bound],
    pub constants: &'a [Counted],
    /// The buffer of the scratch, and the first byte of the scratch in it.
    pub scratch: (&'a wgpu::Buffer, u64),
}

impl<'a> Places<'a> {
    fn of(&self, binding: &Binding) -> Option<pipeline::Bound<'a>> {
        let (buffer, first_byte) = match &binding.role {
            Role::Scratch => (self.scratch.0, self.scratch.1 + binding.offset),
            Role::Constant(index) => (&**self.constants.get(*index)?, binding.offset),
            role => {
                let tensor = self.tensors.iter().find(|tensor| tensor.role == *role)?;
                (&tensor.buffer, self.planned.moved(binding, tensor))
            }
        };
        Some((buffer, first_byte, binding.size))
    }

    /// The bind groups of the plan. A refusal goes to the error scopes around the call.
    pub fn bind(&self, gpu: &Gpu, params: &Parameters) -> Result<Vec<wgpu::BindGroup>> {
        let first = self.planned.groups.first.iter();
        first.map(|dispatch| self.group(gpu, params, *dispatch)).collect()
    }

    /// The bind groups of the plan, of which those whose tensors have not moved since `before` are `bound`.
    pub fn bind_moved(
        &self,
        gpu: &Gpu,
        params: &Parameters,
        (before, bound): (Self, &[wgpu::BindGroup]),
    ) -> Result<Vec<wgpu::BindGroup>> {
        let group = |(dispatch, bound): (&usize, &wgpu::BindGroup)| {
            let mut bindings = self.bindings(*dispatch).iter();
            if bindings.all(|binding| self.of(binding) == before.of(binding)) {
                return Ok(bound.clone());
            }
            self.group(gpu, params, *dispatch)
        };
        self.planned.groups.first.iter().zip(bound).map(group).collect()
    }

    fn bindings(&self, dispatch: usize) -> &'a [Binding] {
        self.planned.plan.dispatches.get(dispatch).map_or(&[], |dispatch| &dispatch.bindings)
    }

    fn group(&self, gpu: &Gpu, params: &Parameters, dispatch: usize) -> Result<wgpu::BindGroup> {
        let plan = &self.planned.plan;
        let bindings = self.bindings(dispatch);
        let mut ranges = Vec::with_capacity(1 + bindings.len());
        ranges.push((params.buffer(), 0, Plan::PARAMS_STRIDE));
        for binding in bindings {
            let place = self.of(binding).ok_or_else(|| Error::MissingBuffer {
                operation: plan.loss.clone().into(),
                role: binding.role.to_string().into(),
            })?;
            ranges.push(place);
        }
        let pipeline = self.planned.pipelines.get(dispatch).ok_or_else(|| Error::BadPlan {
            operation: plan.loss.clone().into(),
            dispatch,
            reason: "it has no kernel".into(),
        })?;
        Ok(pipeline.bind(gpu.device(), &plan.loss, &ranges))
    }
}
