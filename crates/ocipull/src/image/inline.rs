//! Content that stands in its descriptor (image-spec, "Embedded Content"). Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::Descriptor;

use super::ImageError;
use crate::verify;

/// What `descriptor` brings along, checked; `None` for most, which bring nothing. Its document
/// bounds it.
pub fn inline_data(descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
    let Some(text) = descriptor.data() else { return Ok(None) };
    let digest = || descriptor.digest().to_string();
    let data = STANDARD
        .decode(text)
        .map_err(|source| ImageError::InlineBase64 { digest: digest(), source })?;
    verify::verify(&data, descriptor.digest(), Some(descriptor.size()))
        .map_err(|source| ImageError::Inline { digest: digest(), source })?;
    Ok(Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(size: u64, text: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let descriptor = serde_json::json!({
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": size,
            "data": text,
        });
        inline_data(&serde_json::from_value(descriptor).unwrap())
    }

    #[test]
    fn what_is_embedded_is_checked() {
        assert_eq!(data(2, "e30=").unwrap().unwrap(), b"{}");
        assert!(matches!(data(2, "e30"), Err(ImageError::InlineBase64 { .. })));
        assert!(matches!(data(2, "W10="), Err(ImageError::Inline { .. })));
        assert!(matches!(data(3, "e30="), Err(ImageError::Inline { .. })));
    }
}
