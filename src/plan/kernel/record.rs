//! The record of a row: the words that live from one kernel to the next, and the WGSL that reads and writes them.
//!
//! A row functor names every word that a row leaves behind: its by-products ([`RowOutput`]), the factors of its
//! gradient and, between two rounds, what the first round found ([`Field`]). The WGSL structs, their loads and stores,
//! and the constants are written from this one table. A functor therefore never counts words itself.

use std::fmt::Write as _;

use super::size;

/// What a row functor keeps of a row between kernels, and the state that a stretch of its columns is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowRecord {
    /// By-products.
    pub outputs: &'static [RowOutput],
    /// What `close` leaves for `emit`.
    pub factors: &'static [Field],
    /// What `settle` leaves for the second round.
    pub settled: &'static [Field],
    /// How often a row is reduced before its gradient is written.
    pub rounds: Rounds,
    /// The mergeable state.
    pub state: StateLayout,
    /// What the call gives for each row, until the row is closed.
    pub numbers: &'static [RowNumber],
    /// Whether the row's scores are i8: then it keeps their scale and their zero point.
    pub quantized: bool,
}

/// What a kernel knows of the records of rows. The WGSL of it stands in front of the kernel's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Declared {
    /// Nothing.
    #[default]
    Nothing,
    /// The places of a record's words.
    Places(RowRecord),
    /// All that a row functor uses.
    Functor(RowRecord),
}

impl Declared {
    pub fn wgsl(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Places(record) => record.constants(),
            Self::Functor(record) => record.declarations(),
        }
    }
}

/// The size of the WGSL struct `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateLayout {
    /// The words of `State`, with the padding behind a `vec4`. 0 where rows are never reduced.
    pub words: u32,
    /// The functor has `state_publish` and `state_gathered`, so that shards can be merged.
    pub shardable: bool,
}

impl StateLayout {
    /// A state of this many words.
    pub const fn words(words: u32) -> Self {
        Self { words, shardable: false }
    }
}

/// A by-product of a row, as one word of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowOutput {
    /// The name of the field of `Closed` in WGSL (a `u32`, or the bits of a float), and of the per-row output, if the
    /// loss has one.
    pub name: &'static str,
    /// What the word holds.
    pub kind: OutputKind,
    /// The output that the words of all rows are reduced to, if the loss has one.
    pub reduced: Reduced,
}

impl RowOutput {
    /// An `f32`.
    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: OutputKind::Number, reduced: Reduced::None }
    }

    /// A count, as `u32`.
    pub const fn count(name: &'static str) -> Self {
        Self { kind: OutputKind::Count, ..Self::number(name) }
    }

    /// An `f32`: the row's share of a gradient that is the sum of all rows, as this output.
    pub const fn slope(name: &'static str, gradient: &'static str) -> Self {
        let reduced = Reduced::Sum(gradient);
        Self { kind: OutputKind::Slope, reduced, ..Self::number(name) }
    }

    /// The index of a column, as `u32`.
    pub const fn index(name: &'static str) -> Self {
        Self { kind: OutputKind::Index, ..Self::number(name) }
    }

    /// The same by-product with an output that the words of all rows are reduced to.
    #[must_use]
    pub const fn reduced(self, reduced: Reduced) -> Self {
        Self { reduced, ..self }
    }
}

/// An input of one float a row that a functor reads in `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowNumber {
    /// Its name in WGSL: `row_number(row, NUMBER_NAME)` gives its bits.
    pub name: &'static str,
    /// The name of the input. The number is 0 where the call does not give it.
    pub argument: &'static str,
}

/// The type of a by-product, and its value in a row that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputKind {
    /// An `f32`: 0 in a row that counts for nothing, NaN in a bad row.
    Number,
    /// An `f32` with the factor of the row's gradient in it: as a number, but 0 in any row whose gradient is 0.
    Slope,
    /// A `u32`: 0 in a row that counts for nothing and in a bad row.
    Count,
    /// A `u32`: the largest `u32` in a row that counts for nothing and in a bad row.
    Index,
}

impl OutputKind {
    /// Whether the word is a `u32`, not the bits of a float.
    pub(crate) const fn is_integer(self) -> bool {
        matches!(self, Self::Count | Self::Index)
    }
}

/// What the words of all rows are reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduced {
    /// Nothing.
    None,
    /// Their sum, as this output. A program has at most one [`OutputKind::Count`] that is summed.
    Sum(&'static str),
    /// Their mean over the rows that count, as this output.
    Mean(&'static str),
}

/// A field of a WGSL struct that the skeleton keeps in a row's record between two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: FieldKind,
}

impl Field {
    /// An `f32`.
    pub const fn f32(name: &'static str) -> Self {
        Self { name, kind: FieldKind::F32 }
    }

    /// A `u32`.
    pub const fn u32(name: &'static str) -> Self {
        Self { name, kind: FieldKind::U32 }
    }

    /// A `vec4<f32>`.
    pub const fn vec4(name: &'static str) -> Self {
        Self { name, kind: FieldKind::Vec4 }
    }

    const fn words(self) -> u32 {
        match self.kind {
            FieldKind::F32 | FieldKind::U32 => 1,
            FieldKind::Vec4 => 4,
        }
    }

    const fn wgsl(self) -> &'static str {
        match self.kind {
            FieldKind::F32 => "f32",
            FieldKind::U32 => "u32",
            FieldKind::Vec4 => "vec4<f32>",
        }
    }

    /// The statements that store this field of `record` from word `at + word` on.
    fn store(self, record: &str, word: u32) -> String {
        let Self { name, kind } = self;
        match kind {
            FieldKind::U32 => format!("records[at + {word}u] = {record}.{name};"),
            FieldKind::F32 => format!("records[at + {word}u] = bitcast<u32>({record}.{name});"),
            FieldKind::Vec4 => (0..4)
                .map(|i| {
                    format!("records[at + {}u] = bitcast<u32>({record}.{name}[{i}]);", word + i)
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    /// The expression that loads this field from word `at + word` on.
    fn load(self, word: u32) -> String {
        let words = |count| (0..count).map(|i| format!("records[at + {}u]", word + i));
        match self.kind {
            FieldKind::U32 => words(1).collect(),
            FieldKind::F32 => format!("bitcast<f32>({})", words(1).collect::<String>()),
            FieldKind::Vec4 => {
                let words: Vec<_> = words(4).collect();
                format!("bitcast<vec4<f32>>(vec4<u32>({}))", words.join(", "))
            }
        }
    }
}

/// The type of a [`Field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// `f32`
    F32,
    /// `u32`
    U32,
    /// `vec4<f32>`
    Vec4,
}

/// How often a row is reduced before its gradient is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounds {
    /// Never: the row is closed from what is given and from the column found before ([`RowProgram::select`](crate::row::RowProgram::select)).
    None,
    /// Once.
    #[default]
    One,
    /// Twice: the second round uses what the first one found (a normaliser, for example).
    Two,
}

impl Rounds {
    pub(crate) const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The first word of a record behind its loss and its flags.
const FIRST_OUTPUT: u32 = size::RECORD_FLAGS + 1;
/// Words for what is known of a row before it is closed: its saved lse, and the scores of its label and of both
/// columns beside the label. Behind them are the numbers of the row. The factors later use the same words.
const BEFORE_NUMBERS: u32 = 4;

impl RowRecord {
    /// The number of words.
    pub fn words(self) -> u32 {
        self.scale_word() + if self.quantized { 2 } else { 0 }
    }

    /// The word of a record that holds the scale of the row's i8 scores; their zero point is behind it.
    pub fn scale_word(self) -> u32 {
        let settled: u32 = self.settled.iter().map(|field| field.words()).sum();
        self.first_settled() + if self.rounds == Rounds::Two { settled } else { 0 }
    }

    /// The word of a record that holds a by-product.
    pub fn output_word(self, name: &str) -> Option<u32> {
        let index = self.outputs.iter().position(|output| output.name == name)?;
        Some(FIRST_OUTPUT + index as u32)
    }

    /// The word of a record that holds a saved lse until the row is closed.
    pub fn saved_lse_word(self) -> u32 {
        FIRST_OUTPUT + self.outputs.len() as u32
    }

    /// The word of a record that holds the first of the row's numbers until the row is closed.
    pub fn first_number(self) -> u32 {
        self.saved_lse_word() + BEFORE_NUMBERS
    }

    fn first_settled(self) -> u32 {
        let factors: u32 = self.factors.iter().map(|field| field.words()).sum();
        (self.saved_lse_word() + factors).max(self.first_number() + self.numbers.len() as u32)
    }

    /// Whether a row of weight 0 has by-products to compute. Its slopes are 0.
    fn has_by_products(self) -> bool {
        self.outputs.iter().any(|output| output.kind != OutputKind::Slope)
    }

    /// The words of a record and of a state, as WGSL constants.
    fn constants(self) -> String {
        let factors = placed(self.factors, self.saved_lse_word());
        let fixed = [
            ("RECORD_WORDS".to_owned(), self.words()),
            ("RECORD_SAVED_LSE".to_owned(), self.saved_lse_word()),
            ("RECORD_LABEL_SCORES".to_owned(), self.saved_lse_word() + 1),
            ("RECORD_SCALE".to_owned(), self.scale_word()),
            ("STATE_WORDS".to_owned(), self.state.words),
        ];
        let outputs = self.outputs.iter().zip(FIRST_OUTPUT..);
        let outputs = outputs.map(|(o, word)| (format!("OUT_{}", o.name.to_uppercase()), word));
        let factors = factors.map(|(f, word)| (format!("FACTOR_{}", f.name.to_uppercase()), word));
        let numbers = self.numbers.iter().zip(self.first_number()..);
        let numbers = numbers.map(|(n, word)| (format!("NUMBER_{}", n.name.to_uppercase()), word));
        let mut text = format!("const HAS_NUMBERS: bool = {};\n", !self.numbers.is_empty());
        for (name, word) in fixed.into_iter().chain(outputs).chain(factors).chain(numbers) {
            let _ = writeln!(text, "const {name}: u32 = {word}u;");
        }
        text
    }

    /// The structs `Closed` and `Settled`, their loads and stores, and an empty function in place of each function
    /// that the program does not use.
    fn declarations(self) -> String {
        let mut text = self.constants();
        self.declare_closed(&mut text);
        self.declare_rounds(&mut text);
        if !self.state.shardable {
            text.push_str("fn state_publish(row: u32, state: State) {}\n");
        }
        text
    }

    fn declare_closed(self, text: &mut String) {
        let _ = writeln!(text, "const HAS_BY_PRODUCTS: bool = {};", self.has_by_products());
        let outputs: Vec<Field> = self.outputs.iter().map(|o| Field::u32(o.name)).collect();
        let always = [Field::u32("loss"), Field::u32("flags")];
        let fields = always.iter().chain(&outputs).chain(self.factors);
        let _ = writeln!(text, "struct Closed {{ {} }}", members(fields.copied()));
        let fills = self.outputs.iter().map(|output| {
            let fill = match output.kind {
                OutputKind::Number => "fill",
                OutputKind::Slope => "select(fill, 0u, (flags & ROW_ZERO) != 0u)",
                OutputKind::Count => "0u",
                OutputKind::Index => "NONE",
            };
            format!("closed.{} = {fill};", output.name)
        });
        let fills: Vec<_> = fills.collect();
        let _ = writeln!(
            text,
            "// A row whose by-products are `fill`, where they are numbers, and whose factors are 0.\n\
             fn closed_blank(flags: u32, loss: u32, fill: u32) -> Closed {{ var closed: Closed; \
             closed.flags = flags; closed.loss = loss; {} return closed; }}",
            fills.join(" ")
        );
        let stored = placed(&always, 0).chain(placed(&outputs, FIRST_OUTPUT));
        let stored = stored.chain(placed(self.factors, self.saved_lse_word()));
        let stores: Vec<_> = stored.map(|(field, word)| field.store("closed", word)).collect();
        let loads = placed(self.factors, self.saved_lse_word());
        let loads = loads.map(|(f, word)| format!("closed.{} = {};", f.name, f.load(word)));
        let loads: Vec<_> = loads.collect();
        let _ = writeln!(
            text,
            "fn closed_write(row: Row, closed: Closed) {{ let at = record_of(row.index); {} }}\n\
             // Its flags and factors; the by-products stay where they are.\n\
             fn closed_read(row: Row) -> Closed {{ let at = record_of(row.index); \
             var closed: Closed; closed.flags = records[at + RECORD_FLAGS]; {} return closed; }}",
            stores.join(" "),
            loads.join(" ")
        );
    }

    fn declare_rounds(self, text: &mut String) {
        let _ = writeln!(text, "const ROUNDS: u32 = {}u;", self.rounds.count());
        if self.rounds == Rounds::Two {
            let fields: Vec<_> = placed(self.settled, self.first_settled()).collect();
            let stores: Vec<_> =
                fields.iter().map(|(field, word)| field.store("settled", *word)).collect();
            let load =
                |(f, word): &(Field, u32)| format!("settled.{} = {};", f.name, f.load(*word));
            let loads: Vec<_> = fields.iter().map(load).collect();
            let _ = writeln!(
                text,
                "struct Settled {{ {} }}\n\
                 fn settled_write(row: Row, settled: Settled) {{ let at = record_of(row.index); {} }}\n\
                 fn settled_read(row: Row) -> Settled {{ let at = record_of(row.index); \
                 var settled: Settled; {} return settled; }}\n\
                 fn row_settled(row: Row, settled: Settled) -> Row {{ var out = row; \
                 out.round = 1u; out.settled = settled; return out; }}",
                members(self.settled.iter().copied()),
                stores.join(" "),
                loads.join(" ")
            );
        } else {
            let none = [Field::u32("none")];
            let fields = if self.settled.is_empty() { &none } else { self.settled };
            let _ = writeln!(
                text,
                "struct Settled {{ {} }}\n\
                 fn settle(row: Row, state: State) -> Settled {{ var none: Settled; return none; }}\n\
                 fn settled_write(row: Row, settled: Settled) {{}}\n\
                 fn settled_read(row: Row) -> Settled {{ var none: Settled; return none; }}\n\
                 fn row_settled(row: Row, settled: Settled) -> Row {{ return row; }}",
                members(fields.iter().copied()),
            );
        }
        if self.rounds == Rounds::None {
            text.push_str(
                "struct State { none: u32 }\n\
                 fn state_empty() -> State { return State(0u); }\n\
                 fn state_merge(a: State, b: State) -> State { return a; }\n\
                 fn state_take_quad(row: Row, state: State, a: Item) -> State { return state; }\n\
                 fn state_take_tile(row: Row, state: State, a: Item, b: Item, c: Item, d: Item) -> State \
                 { return state; }\n",
            );
        }
    }
}

fn members(fields: impl Iterator<Item = Field>) -> String {
    fields.map(|field| format!("{}: {}", field.name, field.wgsl())).collect::<Vec<_>>().join(", ")
}

/// Fields one after another, each with its first word.
fn placed(fields: &[Field], first: u32) -> impl Iterator<Item = (Field, u32)> {
    fields.iter().scan(first, |next, &field| {
        let word = *next;
        *next += field.words();
        Some((field, word))
    })
}
