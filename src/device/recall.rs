//! What a handle has planned before: a call whose tensors have known shapes and places is not planned again.
//!
//! A place is known if it agrees with an earlier one modulo the alignment of bindings: the plan then binds the same
//! bytes, further on in the buffer.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
    sync::{Arc, Mutex},
};

use super::{
    bind::{Bound, Groups},
    gpu::on_device,
    guard::lock,
    pipeline::Pipeline,
};
use crate::{
    data::{
        error::{Error, Result},
        tensor::{Buffer, Dtype, Layout},
    },
    plan::{Binding, Call, Plan, Role, profile::Profile},
    skeleton::{
        operation::{Operation, Options},
        request::Request,
    },
    spec::{about::Dim, in_place},
};

/// A handle forgets everything it has planned once it holds plans of this many shapes. Loops have few shapes; a test
/// suite may have thousands.
const MOST_SHAPES: usize = 512;

/// Of the plans of one shape, which differ in their options, a handle keeps this many: those that were used last. A loop
/// may change an option at every step.
const MOST_OPTIONS: usize = 16;

/// A plan, and everything about it that does not depend on the buffers.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The name of the operation.
    pub operation: &'static str,
    /// What follows from the options for the shapes of outputs.
    pub is_per_row: bool,
    pub extents: Vec<(Dim, u64)>,
    /// The checked call that the plan was made from.
    pub call: Arc<Call>,
    pub plan: Plan,
    /// The kernel of each dispatch.
    pub pipelines: Arc<[Arc<Pipeline>]>,
    /// The dispatches that share a bind group.
    pub groups: Arc<Groups>,
    /// The first byte of each tensor that the plan was made from, rounded down to the alignment of bindings.
    pub places: Arc<[(Role, u64)]>,
    /// The tensors of the request that the plan was made from.
    pub tensors: Arc<[Shaped]>,
}

/// A tensor of a request: its name, what it is to the call, its type and its shape.
pub(crate) type Shaped = (String, What, Dtype, Vec<u64>);

impl Planned {
    /// Where a binding begins if its tensor lies here.
    pub fn moved(&self, binding: &Binding, tensor: &Bound) -> u64 {
        let place = self.places.iter().find(|(role, _)| *role == tensor.role);
        let planned = place.map_or(tensor.first_byte, |(_, byte)| *byte);
        binding.offset - planned + tensor.first_byte
    }

    /// The same call with the numbers of another loss value.
    pub fn with_numbers_of(&self, operation: &dyn Operation, profile: &Profile) -> Result<Self> {
        let needs = |reason: &str| Err(needs_preparation(operation.about().name, reason));
        self.is_call_of(operation.about().name)?;
        on_device(operation)?;
        if (operation.is_per_row(), operation.extents()) != (self.is_per_row, self.extents.clone())
        {
            return needs("an option changes the shape of the outputs");
        }
        operation.accepts(&self.call)?;
        let plan = operation.plan(&self.call, profile)?;
        if let Some(change) = plan.other_code(&self.plan) {
            return needs(&change);
        }
        Ok(Self {
            operation: self.operation,
            is_per_row: self.is_per_row,
            extents: self.extents.clone(),
            call: self.call.clone(),
            plan,
            pipelines: self.pipelines.clone(),
            groups: self.groups.clone(),
            places: self.places.clone(),
            tensors: self.tensors.clone(),
        })
    }

    /// Whether this is a call of the operation of this name.
    fn is_call_of(&self, operation: &str) -> Result<()> {
        if self.operation == operation {
            return Ok(());
        }
        let reason = format!("the prepared call is one of `{}`", self.operation);
        Err(needs_preparation(operation, &reason))
    }

    /// Checks that a request is one for the same operation, with tensors of the same shapes and types.
    pub fn has_shapes_of(&self, request: &Request) -> Result<()> {
        let operation = request.operation.about().name;
        self.is_call_of(operation)?;
        let (outputs, _) = request.all_outputs()?;
        let asked = |what, name: &str| match what {
            What::Output => outputs.get(name),
            _ => request.inputs.get(name),
        };
        let differs = |(name, what, dtype, shape): &&Shaped| {
            asked(*what, name).is_none_or(|tensor| {
                let Layout { dtype: other, shape: others, .. } = &tensor.layout;
                (dtype, shape) != (other, others)
            })
        };
        let other = self.tensors.iter().find(differs).map(|(name, ..)| name);
        let is_known = |what, name: &str| {
            self.tensors.iter().any(|(known, kind, ..)| (known.as_str(), *kind) == (name, what))
        };
        let mut inputs = request.inputs.keys().filter(|name| !is_known(What::Input, name));
        let mut outputs = outputs.keys().filter(|name| !is_known(What::Output, name));
        let other = other.or_else(|| inputs.next()).or_else(|| outputs.next());
        let Some(other) = other else { return Ok(()) };
        let reason = format!(
            "`{other}` has another shape or type than in the prepared call, or only one of the two has it"
        );
        Err(needs_preparation(operation, &reason))
    }
}

fn needs_preparation(operation: &str, reason: &str) -> Error {
    Error::NeedsPreparation { operation: operation.into(), reason: reason.into() }
}

/// A tensor of a request, or its scratch.
#[derive(Clone, Debug)]
pub(crate) struct Spot<'r, 'a> {
    pub name: &'r str,
    pub what: What,
    pub layout: &'r Layout,
    pub buffer: &'a Buffer,
    /// The number of the buffer among those of the request.
    pub allocation: usize,
    /// The first byte of the tensor, rounded down to the alignment.
    pub first_byte: u64,
}

/// What a [`Spot`] is to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Input,
    Output,
    Scratch,
}

impl<'r, 'a> Spot<'r, 'a> {
    /// Adds a tensor to those of a request.
    pub fn add(
        spots: &mut Vec<Self>,
        (name, what): (&'r str, What),
        (buffer, layout): (&'a Buffer, &'r Layout),
        alignment: u64,
    ) {
        let known = spots.iter().find(|spot| spot.buffer == buffer);
        let next = spots.iter().map(|spot| spot.allocation + 1).max().unwrap_or(0);
        let allocation = known.map_or(next, |spot| spot.allocation);
        let start = layout.offset.saturating_mul(layout.dtype.bytes());
        let first_byte = start - start % alignment.max(1);
        spots.push(Self { name, what, layout, buffer, allocation, first_byte });
    }

    /// Everything that a plan can depend on: the layout with the offset behind the last aligned byte, and the bytes of
    /// the buffer behind the tensor, as far as a plan looks at them.
    fn identity(&self) -> Identity {
        let Layout { dtype, row_stride, class_stride, offset, strips, .. } = *self.layout;
        let size = dtype.bytes();
        let start = offset.saturating_mul(size) - self.first_byte;
        let end = self.layout.byte_range().map_or(u64::MAX, |bytes| bytes.end);
        let columns = self.layout.columns();
        // The rest of the last row, and the rest of a load of eight elements.
        let seen = (row_stride.saturating_sub(columns) + 8).saturating_mul(size);
        let behind = self.buffer.size().saturating_sub(end).min(seen);
        let strips = u64::from(strips.is_some());
        let places = [start, row_stride, class_stride, strips, behind];
        (self.what, dtype, self.allocation, places)
    }

    /// The name and shape of the tensor.
    pub fn shaped(&self) -> Option<Shaped> {
        let Layout { dtype, shape, .. } = self.layout;
        let shaped = (self.name.to_owned(), self.what, *dtype, shape.clone());
        (self.what != What::Scratch).then_some(shaped)
    }

    /// Whether the buffer can hold the tensor and be bound at all.
    fn fits(&self) -> bool {
        let end = self.layout.byte_range().and_then(|bytes| bytes.end.checked_next_multiple_of(4));
        self.buffer.usage().contains(wgpu::BufferUsages::STORAGE)
            && end.is_some_and(|end| end <= self.buffer.size())
    }

    /// Whether no alignment block holds bytes of both tensors.
    fn is_apart(&self, other: &Self, alignment: u64) -> bool {
        let blocks = |spot: &Self| {
            let end = spot.layout.byte_range()?.end.checked_next_multiple_of(alignment)?;
            Some(spot.first_byte..end)
        };
        match (blocks(self), blocks(other)) {
            (Some(a), Some(b)) => a.end <= b.start || b.end <= a.start,
            _ => false,
        }
    }

    /// What bindings of the tensor are bound to. The scratch is none of the tensors: its bindings count from its own
    /// first byte.
    pub fn bound(&self) -> Option<Bound> {
        let role = match self.what {
            What::Input => Role::Input(self.name.into()),
            What::Output => Role::Output(self.name.into()),
            What::Scratch => return None,
        };
        Some(Bound { role, buffer: self.buffer.clone(), first_byte: self.first_byte })
    }
}

/// What a plan can depend on of a tensor, beside its name and shape.
type Identity = (What, Dtype, usize, [u64; 5]);

/// What a plan is recalled by.
#[derive(Debug)]
struct Key {
    operation: &'static str,
    options: Vec<Box<dyn Options>>,
    tensors: Vec<(String, Vec<u64>, Identity)>,
    in_place: BTreeSet<String>,
    accumulates_status: bool,
}

/// The part of a request that is no tensor, for [`Key`].
pub(crate) struct Asked<'r, 'a> {
    pub request: &'r Request<'a>,
    pub in_place: &'r BTreeSet<String>,
    pub spots: &'r [Spot<'r, 'a>],
}

impl Asked<'_, '_> {
    fn operation(&self) -> &dyn Operation {
        self.request.operation
    }

    /// Whether every tensor fits its buffer, and nothing that is written shares an alignment block with another
    /// tensor. A call that does not is checked in full, for its error.
    fn fits(&self, alignment: u64) -> bool {
        let about = self.operation().about();
        let over = |output: &Spot, input: &Spot| {
            let argument =
                about.output(output.name).filter(|_| self.in_place.contains(output.name));
            input.what == What::Input
                && argument.and_then(|a| in_place::input_of(a, output.name)).as_deref()
                    == Some(input.name)
        };
        let apart = |(nth, spot): (usize, &Spot)| {
            let others = self.spots.iter().enumerate().filter(|(other, _)| *other != nth);
            let mut shared = others.filter(|(_, other)| other.allocation == spot.allocation);
            spot.what == What::Input
                || shared.all(|(_, other)| {
                    other.is_apart(spot, alignment) || over(spot, other) || over(other, spot)
                })
        };
        self.spots.iter().all(Spot::fits) && self.spots.iter().enumerate().all(apart)
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        let mut hasher = hasher.build_hasher();
        self.operation().about().name.hash(&mut hasher);
        self.request.accumulates_status.hash(&mut hasher);
        for spot in self.spots {
            (spot.name, &spot.layout.shape, spot.identity()).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn key(&self) -> Option<Key> {
        let tensor =
            |spot: &Spot| (spot.name.to_owned(), spot.layout.shape.clone(), spot.identity());
        let mut options = Vec::new();
        if !self.operation().compared_by(&mut |part| options.push(part.to_boxed())) {
            return None;
        }
        Some(Key {
            operation: self.operation().about().name,
            options,
            tensors: self.spots.iter().map(tensor).collect(),
            in_place: self.in_place.clone(),
            accumulates_status: self.request.accumulates_status,
        })
    }

    fn matches(&self, key: &Key) -> bool {
        let same = |(spot, (name, shape, identity)): (&Spot, &(String, Vec<u64>, _))| {
            spot.name == name && spot.layout.shape == *shape && spot.identity() == *identity
        };
        key.operation == self.operation().about().name
            && key.accumulates_status == self.request.accumulates_status
            && key.in_place == *self.in_place
            && key.tensors.len() == self.spots.len()
            && self.spots.iter().zip(&key.tensors).all(same)
            && self.has_options(&key.options)
    }

    fn has_options(&self, known: &[Box<dyn Options>]) -> bool {
        let (mut left, mut equal) = (known.iter(), true);
        let all = self.operation().compared_by(&mut |part| {
            equal &= left.next().is_some_and(|known| part.equals(&**known));
        });
        all && equal && left.next().is_none()
    }
}

/// Plans whose calls have the same hash; the one that was used last comes last.
type Bucket = Vec<(Key, Arc<Planned>)>;

/// The plans of a handle.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    hasher: RandomState,
    plans: Mutex<HashMap<u64, Bucket>>,
}

impl Recall {
    /// The plan of a call that was planned before.
    pub fn find(&self, asked: &Asked<'_, '_>, alignment: u64) -> Option<Arc<Planned>> {
        if !asked.request.host.is_empty() || !asked.fits(alignment) {
            return None;
        }
        let mut plans = lock(&self.plans);
        let bucket = plans.get_mut(&asked.hash(&self.hasher))?;
        let found = bucket.iter().position(|(key, _)| asked.matches(key))?;
        bucket.get_mut(found..)?.rotate_left(1);
        Some(bucket.last()?.1.clone())
    }

    /// Keeps the plan of a call. Calls with host inputs are planned every time: a plan depends on their numbers.
    pub fn keep(&self, asked: &Asked<'_, '_>, planned: &Arc<Planned>) {
        let Some(key) = asked.key().filter(|_| asked.request.host.is_empty()) else { return };
        let mut plans = lock(&self.plans);
        if plans.len() >= MOST_SHAPES {
            plans.clear();
        }
        let bucket = plans.entry(asked.hash(&self.hasher)).or_default();
        if bucket.len() >= MOST_OPTIONS {
            bucket.remove(0);
        }
        bucket.push((key, planned.clone()));
    }
}
