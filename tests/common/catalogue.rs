//! The catalogue of calls: for every operation, calls in which every two values of its options, types, places, outputs
//! and ways to run meet.
//!
//! A call is plain data. What a call varies in (its factors) follows from the operation's description alone, so a new
//! operation, option, input or output is in the catalogue without an edit here.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    rc::Rc,
};

use serde_json::{Map, Value};
use surprisal::{
    Array, Arrays, Dtype, Error, Layout, Operation, Plan, Profile, Status,
    loss::{About, Argument, Dim, Kind, OptionAbout, Spread},
    operations::{self, Entry},
    plan,
    plan::Operand,
    testing,
};

use super::covering::{self, Covering, Domain, Refusal, Row};

/// The extents of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    pub rows: u64,
    pub classes: u64,
    pub hidden: u64,
    /// The rows of an image, where columns are planes.
    pub plane: u64,
}

/// Few columns; so many that lanes meet whole tiles, with few rows and with as many rows as columns.
pub const EXTENTS: [Extents; 3] = [
    Extents { rows: 8, classes: 5, hidden: 6, plane: 4 },
    Extents { rows: 3, classes: 301, hidden: 9, plane: 3 },
    Extents { rows: 176, classes: 176, hidden: 16, plane: 44 },
];

/// The statistics that a shard's call is given: of the columns before it, its own, and those after it.
pub const SHARDS: u64 = 3;

/// How a kernel walks rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Quad by quad.
    Quads,
    /// By whole tiles, where a lane meets one.
    Tiles,
    /// The same, and by several workgroups a row or tensor.
    Split,
}

const WALKS: [Walk; 3] = [Walk::Quads, Walk::Tiles, Walk::Split];

/// An output of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub layout: Layout,
    /// The input that it is written over.
    pub over: Option<&'static str>,
}

/// A call as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub operation: &'static str,
    pub options: Value,
    pub extents: Extents,
    pub inputs: BTreeMap<&'static str, Layout>,
    pub outputs: BTreeMap<&'static str, Output>,
    pub host: Arrays,
    pub walk: Walk,
}

impl Call {
    /// The profile that it runs under on a device with such a one.
    pub fn profile(&self, device: &Profile) -> Profile {
        let mut profile = device.clone();
        profile.row_tiles_from = if self.walk == Walk::Quads { u32::MAX } else { 0 };
        if self.walk == Walk::Split {
            (profile.segment, profile.busy_workgroups, profile.element_block) = (128, u32::MAX, 64);
        }
        profile
    }

    /// Its operands, checked.
    pub fn checked(
        &self,
        operation: &dyn Operation,
        profile: &Profile,
    ) -> surprisal::Result<plan::Call> {
        let operand = |name: &str, layout: &Layout, allocation: usize| Operand {
            name: name.to_owned(),
            layout: layout.clone(),
            allocation,
            allocation_bytes: 1 << 30,
        };
        let allocations: Vec<&str> = self.inputs.keys().copied().collect();
        let of_input = |name: &str| allocations.iter().position(|input| *input == name);
        let inputs = self.inputs.iter().enumerate().map(|(allocation, (name, layout))| {
            ((*name).to_owned(), operand(name, layout, allocation))
        });
        let outputs =
            (allocations.len()..).zip(&self.outputs).map(|(allocation, (name, output))| {
                let allocation = output.over.and_then(of_input).unwrap_or(allocation);
                ((*name).to_owned(), operand(name, &output.layout, allocation))
            });
        let over = self.outputs.iter().filter(|(_, output)| output.over.is_some());
        let in_place = over.map(|(name, _)| (*name).to_owned()).collect();
        let call = plan::Call::new(inputs.collect(), outputs.collect());
        let call = plan::Call { in_place, host: self.host.clone(), ..call };
        let call = call.checked(operation, profile.offset_alignment)?;
        if call.outputs.is_empty() {
            // A request that asks for nothing is refused before it is planned.
            let operation = self.operation.to_owned();
            return Err(Error::NoOutput { operation: operation.into(), known: "".into() });
        }
        Ok(call)
    }
}

/// What a call varies in.
#[derive(Clone, Debug)]
enum Factor {
    /// An option: its default, then its samples.
    Option(&'static OptionAbout),
    /// An input: absent where it may be, or of one of some types.
    Input(&'static Argument, Vec<Option<Alike>>),
    /// A host input that may be absent: whether it is given.
    Host(&'static Argument),
    /// An output: absent, of one of some types, or written over an input.
    Output(&'static Argument, Vec<Option<Stored>>),
    /// Which of its shapes an input has.
    Shape(&'static Argument),
    /// Whether a tensor's rows begin at multiples of a quad.
    Aligned(&'static str),
    /// Whether the columns of matrices are planes.
    Planes,
    Extents,
    Walk,
}

/// Types of which a row has one, drawn for it.
type Alike = &'static [Dtype];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    As(Alike),
    Over(&'static str),
}

/// Which types are values of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Types {
    /// Every type.
    Each,
    /// Those that are loaded in ways of their own: the 16-bit types differ in one function of one word, as the 32-bit
    /// integers do, and a mask's types that are not of 32 bits.
    Alike,
}

impl Factor {
    /// How many values it has.
    fn values(&self) -> usize {
        match self {
            Self::Option(option) => 1 + option.samples.len(),
            Self::Input(_, types) => types.len(),
            Self::Output(_, types) => types.len(),
            Self::Shape(argument) => argument.shapes.len(),
            Self::Host(_) | Self::Aligned(_) | Self::Planes => 2,
            Self::Extents => EXTENTS.len(),
            Self::Walk => WALKS.len(),
        }
    }

    /// The name of the option or tensor that it is about.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Option(option) => Some(option.name),
            Self::Input(argument, _) | Self::Host(argument) | Self::Output(argument, _) => {
                Some(argument.name)
            }
            _ => None,
        }
    }

    /// A value in words.
    fn describe(&self, value: u8) -> String {
        let at = usize::from(value);
        match self {
            Self::Option(option) => {
                let json = at.checked_sub(1).map_or(option.default, |at| option.samples[at]);
                format!("option {} = {json}", option.name)
            }
            Self::Input(argument, types) => match types[at] {
                Some(types) => format!("input {} in {types:?}", argument.name),
                None => format!("no input {}", argument.name),
            },
            Self::Host(argument) => {
                format!("{} host input {}", if at == 0 { "no" } else { "a" }, argument.name)
            }
            Self::Output(argument, types) => match types[at] {
                Some(Stored::As(types)) => format!("output {} in {types:?}", argument.name),
                Some(Stored::Over(input)) => format!("output {} over {input}", argument.name),
                None => format!("no output {}", argument.name),
            },
            Self::Shape(argument) => format!("{} {:?}", argument.name, argument.shapes[at]),
            Self::Aligned(name) => format!("{name} {}aligned", if at == 0 { "" } else { "not " }),
            Self::Planes => (if at == 0 { "no planes" } else { "planes" }).to_owned(),
            Self::Extents => format!("{:?}", EXTENTS[at]),
            Self::Walk => format!("{:?}", WALKS[at]),
        }
    }
}

type Make = Box<dyn Fn(&Value) -> surprisal::Result<Box<dyn Operation>>>;
type Made = surprisal::Result<Rc<dyn Operation>>;

/// All calls of an operation that there could be.
pub struct Space {
    pub about: &'static About,
    make: Make,
    factors: Vec<Factor>,
    /// The operations made so far, by the values of their options.
    made: RefCell<HashMap<Row, Made>>,
}

/// The spaces of all operations that a device computes.
pub fn spaces(types: Types) -> impl Iterator<Item = Space> {
    let of_devices = operations::all().filter(|entry| !(entry.default)().is_host());
    of_devices.map(move |entry| Space::of(entry, types))
}

impl Space {
    /// The calls of an operation of the registry.
    pub fn of(entry: &'static Entry, types: Types) -> Self {
        Self::new(entry.about, Box::new(entry.parse), types)
    }

    /// The calls of an operation that has these options and no others.
    pub fn of_one(about: &'static About, make: impl Fn() -> Box<dyn Operation> + 'static) -> Self {
        Self::new(about, Box::new(move |_| Ok(make())), Types::Each)
    }

    fn new(about: &'static About, make: Make, types: Types) -> Self {
        Self { about, make, factors: factors(about, types), made: RefCell::default() }
    }

    /// How many values each factor has.
    pub fn values(&self) -> Vec<u8> {
        self.factors.iter().map(|factor| factor.values() as u8).collect()
    }

    /// A factor's value in words.
    pub fn describe(&self, (factor, value): (usize, u8)) -> String {
        self.factors[factor].describe(value)
    }

    /// A covering array of calls that are valid on a device with such a profile.
    pub fn cover(&self, seed: u64, device: &Profile) -> Covering {
        covering::cover(&self.values(), seed, &mut Valid::new(self, device))
    }

    /// The plan of a call on a device with such a profile.
    pub fn planned(&self, row: &Row, device: &Profile) -> surprisal::Result<Plan> {
        let (call, profile) = self.checked(row, device)?;
        self.operation(row)?.plan(&call, &profile)
    }

    /// The checked call, and the profile that it runs under.
    fn checked(&self, row: &Row, device: &Profile) -> surprisal::Result<(plan::Call, Profile)> {
        let (operation, call) = (self.operation(row)?, self.call(row)?);
        let profile = call.profile(device);
        Ok((call.checked(&*operation, &profile)?, profile))
    }

    fn options(&self, row: &Row) -> Value {
        let mut options = Map::new();
        for (factor, &value) in self.factors.iter().zip(row).filter(|(_, value)| **value > 0) {
            if let Factor::Option(option) = factor {
                let sample = option.samples[usize::from(value) - 1];
                options.insert(option.name.to_owned(), serde_json::from_str(sample).unwrap());
            }
        }
        Value::Object(options)
    }

    /// The operation with a row's options.
    pub fn operation(&self, row: &Row) -> Made {
        let options = self.factors.iter().zip(row);
        let options = options.filter(|(factor, _)| matches!(factor, Factor::Option(_)));
        let key: Row = options.map(|(_, &value)| value).collect();
        let make = || (self.make)(&self.options(row)).map(Rc::from);
        self.made.borrow_mut().entry(key).or_insert_with(make).clone()
    }

    /// The call that a row stands for.
    pub fn call(&self, row: &Row) -> surprisal::Result<Call> {
        let operation = self.operation(row)?;
        let mut call = Call {
            operation: self.about.name,
            options: self.options(row),
            extents: EXTENTS[0],
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            host: Arrays::new(),
            walk: WALKS[0],
        };
        for (factor, at) in self.factors.iter().zip(row.iter().map(|&value| usize::from(value))) {
            match factor {
                Factor::Extents => call.extents = EXTENTS[at],
                Factor::Walk => call.walk = WALKS[at],
                _ => {}
            }
        }
        let layouts = Layouts { space: self, row, operation: &*operation, extents: call.extents };
        for (factor, at) in self.factors.iter().zip(row.iter().map(|&value| usize::from(value))) {
            match factor {
                Factor::Input(argument, types) => {
                    let layout = types[at].map(|types| layouts.of(argument.name, false, types));
                    call.inputs.extend(layout.map(|layout| (argument.name, layout)));
                }
                Factor::Host(argument) if at > 0 => {
                    call.host.insert(argument.name.to_owned(), layouts.host(argument));
                }
                Factor::Output(argument, types) => {
                    if let Some(stored) = types[at] {
                        let output = layouts.output(argument.name, stored, &call)?;
                        call.outputs.insert(argument.name, output);
                    }
                }
                _ => {}
            }
        }
        let host = self.about.inputs.iter().filter(|input| input.host && input.required);
        call.host.extend(host.map(|input| (input.name.to_owned(), layouts.host(input))));
        Ok(call)
    }

    /// The factors that an error is about.
    fn refusal(&self, row: &Row, error: &Error) -> Refusal {
        let named = |name: &str| self.about_name(row, name);
        let about = match error {
            Error::Conflict { argument, other, .. } => [named(argument), named(other)].concat(),
            // Such as more classes of a shard, or more bytes of a row, than the extents have.
            Error::InvalidOption { option, .. } => {
                let of_extents = |at: &usize| matches!(self.factors[*at], Factor::Extents);
                named(option).into_iter().chain((0..row.len()).filter(of_extents)).collect()
            }
            Error::InPlace { output, .. } => named(output),
            Error::NoOutput { .. } => {
                let output = |at: &usize| matches!(self.factors[*at], Factor::Output(..));
                (0..row.len()).filter(output).collect()
            }
            // What needs an input is an output, where it is not the operation.
            Error::MissingInput { argument, .. } => {
                let wanted =
                    |at: &usize| matches!(self.factors[*at], Factor::Output(..)) && row[*at] > 0;
                named(argument).into_iter().chain((0..row.len()).filter(wanted)).collect()
            }
            Error::WrongShape { argument, .. }
            | Error::WrongStride { argument, .. }
            | Error::ClassStride { argument, .. } => {
                let of_shapes = |factor: &Factor| match factor {
                    Factor::Extents | Factor::Planes | Factor::Shape(_) => true,
                    Factor::Aligned(name) => *name == &**argument,
                    _ => false,
                };
                let of_shapes = (0..row.len()).filter(|&at| of_shapes(&self.factors[at]));
                // An option may say how the tensor lies.
                let layout = named(&format!("{argument}_layout"));
                of_shapes.chain(named(argument)).chain(layout).collect()
            }
            _ => Vec::new(),
        };
        Refusal { about, reason: error.to_string() }
    }

    /// The factors of an option or tensor of this name: those that a row has, if it has any.
    fn about_name(&self, row: &Row, name: &str) -> Vec<usize> {
        let of_name = |at: &usize| self.factors[*at].name() == Some(name);
        let all: Vec<usize> = (0..row.len()).filter(of_name).collect();
        let had: Vec<usize> = all.iter().copied().filter(|&at| row[at] > 0).collect();
        if had.is_empty() { all } else { had }
    }
}

/// The valid calls of a space; what one costs is the kernels that no other one has.
struct Valid<'a> {
    space: &'a Space,
    profile: &'a Profile,
    /// The kernels of the calls that were asked for.
    kernels: HashMap<Row, Vec<u64>>,
    compiled: HashSet<u64>,
}

impl<'a> Valid<'a> {
    fn new(space: &'a Space, profile: &'a Profile) -> Self {
        Self { space, profile, kernels: HashMap::new(), compiled: HashSet::new() }
    }
}

impl Domain for Valid<'_> {
    fn check(&mut self, row: &Row) -> Result<(), Refusal> {
        let checked = self.space.checked(row, self.profile);
        checked.map(|_| ()).map_err(|error| self.space.refusal(row, &error))
    }

    fn price(&mut self, row: &Row) -> Result<usize, Refusal> {
        if !self.kernels.contains_key(row) {
            let plan = self.space.planned(row, self.profile);
            let plan = plan.map_err(|error| self.space.refusal(row, &error))?;
            self.kernels.insert(row.clone(), plan.kernels.iter().map(hash).collect());
        }
        Ok(self.kernels[row].iter().filter(|kernel| !self.compiled.contains(kernel)).count())
    }

    fn take(&mut self, row: &Row) {
        self.compiled.extend(&self.kernels[row]);
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What the calls of an operation vary in.
fn factors(about: &'static About, types: Types) -> Vec<Factor> {
    let stored = |kind| stored(kind, types);
    let mut factors: Vec<Factor> = about.options.iter().map(Factor::Option).collect();
    // A host input is no tensor: it has one type and no place.
    for input in about.inputs.iter().filter(|input| !input.host) {
        let types = stored(input.kind).into_iter().map(Some);
        let absent = (!input.required).then_some(None);
        factors.push(Factor::Input(input, absent.into_iter().chain(types).collect()));
        factors.extend(has_shapes(input).then_some(Factor::Shape(input)));
        factors.extend(has_places(input).then_some(Factor::Aligned(input.name)));
    }
    let optional = about.inputs.iter().filter(|input| input.host && !input.required);
    factors.extend(optional.map(Factor::Host));
    for output in about.outputs {
        let types = stored(output.kind).into_iter().map(|types| Some(Stored::As(types)));
        let over = output.over.map(|input| Some(Stored::Over(input)));
        factors.push(Factor::Output(output, [None].into_iter().chain(types).chain(over).collect()));
        factors.extend(has_places(output).then_some(Factor::Aligned(output.name)));
    }
    let matrix = [Dim::Rows, Dim::Classes].as_slice();
    let has_matrix = about.inputs.iter().any(|input| input.shapes.contains(&matrix));
    factors.extend(has_matrix.then_some(Factor::Planes));
    factors.extend([Factor::Extents, Factor::Walk]);
    factors
}

/// The types that tensors of a kind are stored as.
fn stored(kind: Kind, types: Types) -> Vec<Alike> {
    let kinds: &[Alike] = match kind {
        Kind::Float => &[&[Dtype::F32], &[Dtype::F16, Dtype::Bf16]],
        Kind::Logits => &[&[Dtype::F32], &[Dtype::F16, Dtype::Bf16], &[Dtype::I8]],
        Kind::I8 => &[&[Dtype::I8]],
        Kind::F32 => &[&[Dtype::F32]],
        // It is read one element at a time, by one function for each type.
        Kind::WideFloat => &[&[Dtype::F32, Dtype::F16, Dtype::Bf16]],
        Kind::Index | Kind::Label => &[&[Dtype::I64], &[Dtype::I32, Dtype::U32]],
        Kind::U32 => &[&[Dtype::U32]],
        Kind::I64 => &[&[Dtype::I64]],
        Kind::Mask => &[&[Dtype::F32], &[Dtype::F16, Dtype::Bf16, Dtype::U8, Dtype::U32]],
        _ => panic!("a new kind: {kind:?}"),
    };
    match types {
        Types::Each => kinds.iter().flat_map(|alike| alike.chunks(1)).collect(),
        Types::Alike => kinds.to_vec(),
    }
}

/// Whether an option has to agree with which of its shapes an input has.
fn has_shapes(input: &Argument) -> bool {
    input.spread == Spread::Named && input.name != "upstream" && input.shapes.len() > 1
}

/// Which shape an input has that broadcasts: one drawn for the row. How an element is found does not depend on what
/// else a call has, so it is no factor.
fn drawn_shape(input: &Argument, dtype: Dtype, row: &Row) -> &'static [Dim] {
    let is_bits = input.kind == Kind::Mask && dtype == Dtype::U32;
    let fits = |dims: &&[Dim]| dims.contains(&Dim::BitWords) == is_bits;
    let shapes: Vec<&'static [Dim]> = input.shapes.iter().copied().filter(fits).collect();
    drawn(input.name, &shapes, row)
}

/// One of some values, drawn for a row.
fn drawn<V: Copy>(name: &str, values: &[V], row: &Row) -> V {
    values[(hash((name, row)) % values.len() as u64) as usize]
}

/// Whether a tensor is reached by quads where its rows begin at multiples of one.
fn has_places(argument: &Argument) -> bool {
    let float = matches!(argument.kind, Kind::Float | Kind::Logits | Kind::Mask);
    float && argument.shapes.iter().any(|dims| dims.len() > 1 || dims.contains(&Dim::Classes))
}

/// Where the tensors of a call lie.
struct Layouts<'a> {
    space: &'a Space,
    row: &'a Row,
    operation: &'a dyn Operation,
    extents: Extents,
}

impl Layouts<'_> {
    fn output(&self, name: &'static str, stored: Stored, call: &Call) -> surprisal::Result<Output> {
        let input = match stored {
            Stored::As(types) => {
                return Ok(Output { layout: self.of(name, true, types), over: None });
            }
            Stored::Over(input) => input,
        };
        let layout = call.inputs.get(input).cloned();
        let layout = layout.ok_or_else(|| Error::MissingInput {
            operation: call.operation.into(),
            argument: input.into(),
            reason: format!("output `{name}` is written over it").into(),
        })?;
        Ok(Output { layout, over: Some(input) })
    }

    /// An input or output in one of some types.
    fn of(&self, name: &'static str, written: bool, types: Alike) -> Layout {
        let about = self.operation.about();
        let arguments = if written { about.outputs } else { about.inputs };
        let argument = arguments.iter().find(|argument| argument.name == name).unwrap();
        // An option may change what an input is: masks of floats become class indices.
        let own = stored(argument.kind, Types::Alike).concat();
        let fits = types.iter().all(|dtype| own.contains(dtype));
        let dtype = drawn(name, if fits { types } else { own.as_slice() }, self.row);
        let dims = self.dims(argument, dtype);
        let shape: Vec<u64> = dims.iter().map(|dim| self.extent(*dim)).collect();
        let dense = Layout::dense(dtype, &shape);
        let planes = self.value(|factor| matches!(factor, Factor::Planes)) == Some(1);
        let placed = if planes && dims == [Dim::Rows, Dim::Classes] {
            dense.class_stride(self.extents.plane)
        } else {
            dense
        };
        match self.value(|factor| matches!(factor, Factor::Aligned(of) if *of == name)) {
            Some(0) => apart(placed, 8),
            Some(_) => apart(placed, 1),
            None => placed.offset(3),
        }
    }

    /// The numbers of a host input.
    fn host(&self, input: &'static Argument) -> Array {
        let dims = input.shapes.first().copied().unwrap_or_default();
        let shape: Vec<u64> = dims.iter().map(|dim| self.extent(*dim)).collect();
        let count = shape.iter().product::<u64>();
        match input.kind {
            Kind::Index => {
                Array::int(&shape, testing::indices(input.domain, 7, count as usize, count))
            }
            _ => Array::float(&shape, testing::numbers(input.domain, 7, count as usize)),
        }
    }

    /// The value of a factor, if there is one.
    fn value(&self, is: impl Fn(&Factor) -> bool) -> Option<u8> {
        self.space.factors.iter().position(is).map(|at| self.row[at])
    }

    /// The dims of an argument: those that were chosen, also for the gradient of an input.
    fn dims(&self, argument: &Argument, dtype: Dtype) -> &'static [Dim] {
        let of = argument.name.strip_prefix("grad.").unwrap_or(argument.name);
        let inputs = self.operation.about().inputs;
        let input = inputs.iter().find(|input| input.name == of);
        let chosen =
            self.value(|factor| matches!(factor, Factor::Shape(input) if input.name == of));
        match (input, chosen) {
            (Some(input), Some(nth)) => {
                let shape = input.shapes.get(usize::from(nth));
                shape.unwrap_or_else(|| input.shapes.last().unwrap())
            }
            (Some(input), None)
                if matches!(input.spread, Spread::Broadcast | Spread::BroadcastOrRows) =>
            {
                drawn_shape(input, dtype, self.row)
            }
            _ => argument.shape_in(self.operation, inputs[0].shapes[0].len()),
        }
    }

    fn extent(&self, dim: Dim) -> u64 {
        let Extents { rows, classes, hidden, .. } = self.extents;
        let given = self.operation.extents().into_iter().find(|(of, _)| *of == dim);
        if let Some((_, extent)) = given {
            return extent;
        }
        match dim {
            Dim::Rows => rows,
            Dim::Classes | Dim::Fakes => classes,
            Dim::Hidden => hidden,
            Dim::TeacherHidden => hidden + 3,
            Dim::One => 1,
            Dim::Targets => 3,
            Dim::Samples => 5,
            Dim::State => surprisal::row::STATE_WORDS,
            Dim::StatusWords => Status::WORDS,
            Dim::BitWords => (rows * classes).div_ceil(32),
            Dim::Gathered => SHARDS * rows,
            // Without shards no tensor has their classes.
            _ => classes + 1,
        }
    }
}

/// A tensor whose rows (or images) are further apart than they have to be, at multiples of some elements.
fn apart(layout: Layout, unit: u64) -> Layout {
    let end = layout.columns() * layout.class_stride;
    let layout = match layout.shape.len() {
        1 => layout,
        _ => layout.row_stride(end.next_multiple_of(unit) + unit),
    };
    layout.offset(unit)
}
