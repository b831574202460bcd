//! Conversions between the types and their protobuf messages.

use crate::error::FieldError;

/// Generated from `proto/` by `build.rs`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}

/// Both directions, so that no kind of state can be written and then not be read.
pub(crate) trait Codec: Sized {
    /// The message in `signals.proto`.
    type Message;

    fn to_proto(&self) -> Self::Message;

    /// Checks the limits that `signals.proto` gives; the error's field is relative to the message.
    fn from_proto(message: &Self::Message) -> Result<Self, FieldError>;
}

/// Decodes a message that has to be there.
pub(crate) fn required<T: Codec>(
    field: &str,
    message: &protobuf::MessageField<T::Message>,
) -> Result<T, FieldError> {
    let message = message.as_ref().ok_or_else(|| FieldError::missing(field))?;
    T::from_proto(message).map_err(|error| error.within(field))
}

/// No more of something than its limit.
pub(crate) fn at_most(field: &str, count: usize, limit: usize) -> Result<(), FieldError> {
    if count > limit {
        let reason = format!("there are {count}, and {limit} is the limit");
        return Err(FieldError::new(field, reason));
    }
    Ok(())
}

/// A text of limited length.
pub(crate) fn limited(field: &str, text: &str, limit: usize) -> Result<(), FieldError> {
    if text.len() > limit {
        let reason = format!("is {} bytes long, and {limit} is the limit", text.len());
        return Err(FieldError::new(field, reason));
    }
    Ok(())
}
