//! The kernel's type information in its binary form (Documentation/bpf/btf.rst, include/uapi/linux/btf.h).
//!
//! A kernel has some hundred thousand types. They stand one behind the other, each as long as its kind and its number of members
//! say, and refer to each other by their numbers. Types are looked up where they stand. Who looks for a name walks over all types
//! up to that one, which takes up to a millisecond; where some of the types are is kept meanwhile, for those who look for numbers.

use std::cell::RefCell;
use std::ops::Range;

/// `BTF_MAGIC`, in the byte order of this machine.
const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// `struct btf_header`.
const HEADER: usize = 24;
/// `struct btf_type`.
const TYPE: usize = 12;
/// `struct btf_member` and `struct btf_array`.
const MEMBER: usize = 12;
const ARRAY: usize = 12;
/// `struct btf_param`.
const PARAMETER: usize = 8;
/// The place of each type whose number is a multiple of this is kept.
const STEP: u32 = 64;

/// What a type is: a part of `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pointer,
    Array,
    Struct,
    Union,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Function,
    Prototype,
    TypeTag,
    /// One that nobody here asks for.
    Other,
}

/// A type, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type<'b> {
    pub(super) number: u32,
    pub(super) kind: Kind,
    name: u32,
    /// Its size, or the number of another type.
    word: u32,
    /// Members have sizes in bits.
    with_bits: bool,
    /// What follows: members, parameters, an array's element.
    rest: &'b [u8],
}

/// A member of a struct or a union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: u32,
    /// The number of its type.
    pub(super) kind: u32,
    /// From the struct's begin, in bits.
    pub(super) at: u32,
    /// How many bits it has, if it is a bit field; else 0.
    pub(super) bits: u32,
}

/// Type information, by the bytes that hold it.
#[derive(Debug)]
pub(super) struct Btf<B> {
    bytes: B,
    types: Range<usize>,
    strings: Range<usize>,
    /// Where types 1, 1 + STEP, and so on are, as far as they have been passed.
    marks: RefCell<Vec<usize>>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// How many bytes follow a type of this kind and with this number of members. `None` for a kind that is not known: what follows
/// can't be told apart.
fn behind(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Pointer, forward declaration, typedef, volatile, const, restrict, function, float, tag of a type.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, tag of a declaration.
        1 | 14 | 17 => 4,
        3 => ARRAY,
        // Struct, union, section, enum of 64 bits.
        4 | 5 | 15 | 19 => members * MEMBER,
        // Enum, prototype.
        6 | 13 => members * PARAMETER,
        _ => return None,
    })
}

impl Kind {
    fn of(number: u32) -> Kind {
        match number {
            2 => Kind::Pointer,
            3 => Kind::Array,
            4 => Kind::Struct,
            5 => Kind::Union,
            8 => Kind::Typedef,
            9 => Kind::Volatile,
            10 => Kind::Const,
            11 => Kind::Restrict,
            12 => Kind::Function,
            13 => Kind::Prototype,
            18 => Kind::TypeTag,
            _ => Kind::Other,
        }
    }
}

impl<B: AsRef<[u8]>> Btf<B> {
    /// `None` if the bytes are no type information, of another machine or of another version, or not whole.
    pub(super) fn new(bytes: B) -> Option<Btf<B>> {
        let all = bytes.as_ref();
        let magic = u16::from_ne_bytes(*all.first_chunk()?);
        if magic != MAGIC || *all.get(2)? != VERSION || all.len() < HEADER {
            return None;
        }
        let number = |at| word(all, at).and_then(|value| usize::try_from(value).ok());
        let header = number(4)?;
        let part = |at: usize| {
            let start = header.checked_add(number(at)?)?;
            let end = start.checked_add(number(at + 4)?)?;
            (end <= all.len()).then_some(start..end)
        };
        let types = part(8)?;
        Some(Btf {
            marks: RefCell::new(vec![types.start]),
            strings: part(16)?,
            types,
            bytes,
        })
    }

    fn types(&self) -> &[u8] {
        self.bytes
            .as_ref()
            .get(..self.types.end)
            .unwrap_or_default()
    }

    /// Where the type behind the one at `at` is.
    fn next(&self, at: usize) -> Option<usize> {
        let info = word(self.types(), at + 4)?;
        let rest = behind(info >> 24 & 0x1f, (info & 0xffff) as usize)?;
        let next = at + TYPE + rest;
        (next <= self.types.end).then_some(next)
    }

    fn at(&self, number: u32, at: usize) -> Option<Type<'_>> {
        let types = self.types();
        let info = word(types, at + 4)?;
        Some(Type {
            number,
            kind: Kind::of(info >> 24 & 0x1f),
            name: word(types, at)?,
            word: word(types, at + 8)?,
            with_bits: info >> 31 != 0,
            rest: types.get(at + TYPE..self.next(at)?)?,
        })
    }

    /// Walks over the types, from type `number` at `at` on, until `is_it` says so of one: of its number, its place and its kind. Keeps
    /// the places of some that have not been passed before. `None` if there is none, or if a type before it is of a kind that
    /// is not known.
    fn walk(
        &self,
        (mut number, mut at): (u32, usize),
        is_it: impl Fn(u32, usize, u32) -> bool,
    ) -> Option<Type<'_>> {
        let mut marks = self.marks.borrow_mut();
        while at < self.types.end {
            let before = number - 1;
            if before.is_multiple_of(STEP) && (before / STEP) as usize == marks.len() {
                marks.push(at);
            }
            if is_it(number, at, word(self.types(), at + 4)? >> 24 & 0x1f) {
                return self.at(number, at);
            }
            at = self.next(at)?;
            number = number.checked_add(1)?;
        }
        None
    }

    /// The type of this number. 0 is `void`, which is none.
    pub(super) fn of(&self, number: u32) -> Option<Type<'_>> {
        let before = number.checked_sub(1)?;
        let from = {
            let marks = self.marks.borrow();
            let last = marks.len().checked_sub(1)?;
            let mark = usize::try_from(before / STEP).ok()?.min(last);
            (u32::try_from(mark).ok()? * STEP + 1, *marks.get(mark)?)
        };
        self.walk(from, |this, _, _| this == number)
    }

    /// The first type of this kind and name.
    pub(super) fn named(&self, kind: Kind, name: &str) -> Option<Type<'_>> {
        self.walk((1, self.types.start), |_, at, of| {
            Kind::of(of) == kind
                && word(self.types(), at).is_some_and(|at| self.is_called(at, name))
        })
    }

    fn strings(&self, from: u32) -> Option<&[u8]> {
        let strings = self.bytes.as_ref().get(self.strings.clone())?;
        strings.get(usize::try_from(from).ok()?..)
    }

    /// Is the string at `at` this one?
    pub(super) fn is_called(&self, at: u32, name: &str) -> bool {
        let behind = self
            .strings(at)
            .and_then(|s| s.strip_prefix(name.as_bytes()));
        behind.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The string at `at`.
    pub(super) fn string(&self, at: u32) -> Option<String> {
        let bytes = self.strings(at)?.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

impl<'b> Type<'b> {
    /// Where its name is among the strings.
    pub(super) fn name(&self) -> u32 {
        self.name
    }

    /// In bytes; of a struct or a union.
    pub(super) fn size(&self) -> u32 {
        self.word
    }

    /// The type that it points to, is another name for, qualifies, or is an array of. `None` if it is of another kind.
    pub(super) fn refers_to(&self) -> Option<u32> {
        match self.kind {
            Kind::Array => word(self.rest, 0),
            Kind::Struct | Kind::Union | Kind::Prototype | Kind::Other => None,
            _ => Some(self.word),
        }
    }

    /// Those of a struct or a union.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> + use<'b> {
        let is_whole = matches!(self.kind, Kind::Struct | Kind::Union);
        let rest = if is_whole { self.rest } else { &[] };
        let with_bits = self.with_bits;
        rest.chunks_exact(MEMBER).filter_map(move |member| {
            let at = word(member, 8)?;
            Some(Member {
                name: word(member, 0)?,
                kind: word(member, 4)?,
                at: if with_bits { at & 0xff_ffff } else { at },
                bits: if with_bits { at >> 24 } else { 0 },
            })
        })
    }

    /// Of a prototype: where the name and what the number of each parameter's type is.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (u32, u32)> + use<'b> {
        let is_prototype = self.kind == Kind::Prototype;
        let rest = if is_prototype { self.rest } else { &[] };
        rest.chunks_exact(PARAMETER)
            .filter_map(|one| Some((word(one, 0)?, word(one, 4)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use btf_rs::BtfType as _;

    use super::super::layout::BTF;
    use super::*;

    /// Of all of the kernel's types, another reader says the same.
    #[test]
    fn the_kernels_types_are_read_as_another_reader_reads_them() {
        if !fs::exists(BTF).unwrap() {
            return;
        }
        let bytes = fs::read(BTF).unwrap();
        let other = btf_rs::Btf::from_bytes(&bytes).unwrap();
        let btf = Btf::new(bytes).unwrap();
        let name = |at| btf.string(at).unwrap();
        let members = |of: &btf_rs::Struct, found: &Type<'_>| {
            let expected = of.members.iter().map(|member| {
                let bits = member.bitfield_size().unwrap_or(0);
                let kind = member.get_type_id().unwrap();
                (
                    other.resolve_name(member).unwrap(),
                    kind,
                    member.bit_offset(),
                    bits,
                )
            });
            let found = found.members();
            let found = found.map(|one| (name(one.name), one.kind, one.at, one.bits));
            assert!(expected.eq(found), "{}", other.resolve_name(of).unwrap());
        };
        let (mut structs, mut number) = (0, 1);
        while let Ok(expected) = other.resolve_type_by_id(number) {
            let found = btf.of(number).unwrap();
            let kind = match &expected {
                btf_rs::Type::Struct(of) | btf_rs::Type::Union(of) => {
                    structs += 1;
                    members(of, &found);
                    assert_eq!(found.size() as usize, of.size());
                    let is_union = matches!(expected, btf_rs::Type::Union(_));
                    if is_union { Kind::Union } else { Kind::Struct }
                }
                btf_rs::Type::FuncProto(of) => {
                    let expected = of.parameters.iter().map(|parameter| {
                        let kind = parameter.get_type_id().unwrap();
                        (other.resolve_name(parameter).unwrap(), kind)
                    });
                    assert!(expected.eq(found.parameters().map(|(at, kind)| (name(at), kind))));
                    Kind::Prototype
                }
                btf_rs::Type::Ptr(_) => Kind::Pointer,
                btf_rs::Type::Array(_) => Kind::Array,
                btf_rs::Type::Typedef(_) => Kind::Typedef,
                btf_rs::Type::Volatile(_) => Kind::Volatile,
                btf_rs::Type::Const(_) => Kind::Const,
                btf_rs::Type::Restrict(_) => Kind::Restrict,
                btf_rs::Type::Func(_) => Kind::Function,
                btf_rs::Type::TypeTag(_) => Kind::TypeTag,
                _ => Kind::Other,
            };
            assert_eq!((found.number, found.kind), (number, kind));
            let refers_to = match &expected {
                btf_rs::Type::Array(of) => of.get_type_id(),
                of if kind != Kind::Other => of.as_btf_type().and_then(|of| of.get_type_id()),
                _ => None,
            };
            if kind != Kind::Prototype {
                assert_eq!(found.refers_to(), refers_to, "type {number}");
            }
            number += 1;
        }
        assert!(btf.of(number).is_none() && btf.of(0).is_none());
        assert!(structs > 1000, "{structs} structs");
        for (kind, called) in [
            (Kind::Struct, "task_struct"),
            (Kind::Function, "bpf_iter_task"),
        ] {
            let found = btf.named(kind, called).unwrap();
            assert_eq!((found.kind, name(found.name())), (kind, called.to_owned()));
            let all = other.resolve_ids_by_name(called).unwrap();
            assert!(all.contains(&found.number), "{called}");
        }
        assert!(btf.named(Kind::Struct, "task_struc").is_none());
    }

    /// One struct of one member, and one type of a kind of a later kernel.
    #[test]
    fn what_is_cut_off_or_unknown_is_refused() {
        let with = |types: &[u32], cut: usize| {
            let strings = b"\0one\0";
            let len = u32::try_from(types.len() * 4).unwrap();
            let header = [24, 0, len, len, u32::try_from(strings.len()).unwrap()];
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([VERSION, 0]);
            bytes.extend(
                header
                    .iter()
                    .chain(types)
                    .flat_map(|word| word.to_ne_bytes()),
            );
            bytes.extend(strings);
            bytes.truncate(bytes.len() - cut);
            bytes
        };
        let one = [1, 4 << 24 | 1, 8, 1, 7, 0];
        let btf = Btf::new(with(&one, 0)).unwrap();
        let found = btf.named(Kind::Struct, "one").unwrap();
        assert_eq!(
            (found.number, found.size(), found.members().count()),
            (1, 8, 1)
        );
        assert!(btf.of(2).is_none());
        for cut in 1..with(&one, 0).len() {
            assert!(
                Btf::new(with(&one, cut)).is_none(),
                "{cut} bytes are missing"
            );
        }
        let half = Btf::new(with(&one[..5], 0)).unwrap();
        assert!(half.named(Kind::Struct, "one").is_none() && half.of(1).is_none());
        // Where the type behind one of an unknown kind is can't be told.
        let unknown = Btf::new(with(&[&[1, 20 << 24, 0], &one[..]].concat(), 0)).unwrap();
        assert!(unknown.named(Kind::Struct, "one").is_none() && unknown.of(2).is_none());
        let mut old = with(&one, 0);
        old[2] = VERSION + 1;
        assert!(Btf::new(old).is_none(), "another version");
    }
}
