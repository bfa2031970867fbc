//! Decoding, resizing, encoding.

use std::io::Cursor;

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, IntoImageView, ResizeAlg, ResizeOptions, Resizer};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType as PngFilter, PngEncoder};
use image::metadata::Orientation;
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits,
    RgbImage, RgbaImage,
};
use nonblocking_ffi_plugin::Error;

use crate::code;
use crate::options::{Format, Options};

/// A thumbnail.
#[derive(Debug)]
pub struct Made {
    pub data: Vec<u8>,
    /// For instance `image/jpeg 128x96 of 4000x3000`.
    pub description: String,
}

/// Makes a thumbnail. The picture keeps its proportions, is turned as its EXIF
/// data say, and is never enlarged.
pub fn thumbnail(
    picture: &[u8],
    options: &Options,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Made, Error> {
    let input = guess(picture)?;
    let (image, orientation) = decode(picture, input, options)?;
    let (full_width, full_height) = if swaps_sides(orientation) {
        (image.height(), image.width())
    } else {
        (image.width(), image.height())
    };
    // Between the expensive steps; none of them can be interrupted.
    let go_on = || match is_cancelled() {
        true => Err(Error::new(code::CANCELLED, "cancelled")),
        false => Ok(()),
    };
    go_on()?;

    let (width, height) = fit(full_width, full_height, options.width, options.height);
    // Resized first and turned then: that is less to turn.
    let (w, h) = if swaps_sides(orientation) {
        (height, width)
    } else {
        (width, height)
    };
    let mut small = resize(image, w, h)?;
    small.apply_orientation(orientation);
    go_on()?;

    let output = match (options.format, input) {
        (Format::Jpeg, _) | (Format::Auto, ImageFormat::Jpeg) => ImageFormat::Jpeg,
        _ => ImageFormat::Png,
    };
    let data = encode(small, output, options.quality)?;
    let mime = output.to_mime_type();
    let description = format!("{mime} {width}x{height} of {full_width}x{full_height}");
    Ok(Made { data, description })
}

fn broken(error: impl std::error::Error) -> Error {
    Error::from(error).with_code(code::BROKEN)
}

fn internal(error: impl std::error::Error) -> Error {
    Error::from(error).with_code(code::INTERNAL)
}

fn guess(picture: &[u8]) -> Result<ImageFormat, Error> {
    match image::guess_format(picture) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => Ok(format),
        _ => Err(Error::new(
            code::UNSUPPORTED,
            "the request is neither a JPEG nor a PNG picture",
        )),
    }
}

/// Decodes to 8 bits per channel, if the picture is not too large.
fn decode(
    picture: &[u8],
    format: ImageFormat,
    options: &Options,
) -> Result<(DynamicImage, Orientation), Error> {
    let mut limits = Limits::default();
    // At most 8 bytes per pixel, and some for the decoder itself. This bounds
    // what the headers of a picture can make it allocate besides its pixels.
    limits.max_alloc = Some(options.max_pixels.saturating_mul(8) + (16 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(picture), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    // The headers say so; nothing of that size has been allocated yet.
    if u64::from(width) * u64::from(height) > options.max_pixels {
        let limit = options.max_pixels;
        let message = format!("the picture is {width}x{height}, more than {limit} pixels");
        return Err(Error::new(code::TOO_LARGE, message));
    }
    if width == 0 || height == 0 {
        return Err(Error::new(code::BROKEN, "the picture is empty"));
    }
    // EXIF data that cannot be read do not spoil the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    Ok((to_8_bits(image), orientation))
}

fn to_8_bits(image: DynamicImage) -> DynamicImage {
    use DynamicImage as D;
    match image {
        D::ImageLuma8(_) | D::ImageLumaA8(_) | D::ImageRgb8(_) | D::ImageRgba8(_) => image,
        D::ImageLuma16(_) => D::ImageLuma8(image.into_luma8()),
        D::ImageLumaA16(_) => D::ImageLumaA8(image.into_luma_alpha8()),
        _ if image.color().has_alpha() => D::ImageRgba8(image.into_rgba8()),
        _ => D::ImageRgb8(image.into_rgb8()),
    }
}

fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

/// The largest size of the same proportions that fits, and is no enlargement.
fn fit(width: u32, height: u32, max_width: u32, max_height: u32) -> (u32, u32) {
    let (w, h) = (u64::from(width), u64::from(height));
    let (max_w, max_h) = (u64::from(max_width), u64::from(max_height));
    if w <= max_w && h <= max_h {
        return (width, height);
    }
    // Rounded to the nearest, at least one pixel.
    let scaled = |side: u64, num: u64, den: u64| ((side * num + den / 2) / den).max(1) as u32;
    if w * max_h > h * max_w {
        (max_width, scaled(h, max_w, w))
    } else {
        (scaled(w, max_h, h), max_height)
    }
}

fn resize(image: DynamicImage, width: u32, height: u32) -> Result<DynamicImage, Error> {
    if (image.width(), image.height()) == (width, height) {
        return Ok(image);
    }
    let pixel_type = image
        .pixel_type()
        .ok_or_else(|| Error::new(code::INTERNAL, "pixels of an unexpected type"))?;
    let mut small = Image::new(width, height, pixel_type);
    // Every pixel of the picture counts, weighted, so nothing shimmers.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new()
        .resize(&image, &mut small, &options)
        .map_err(internal)?;
    let (w, h, data) = (width, height, small.into_vec());
    match image {
        DynamicImage::ImageLuma8(_) => GrayImage::from_raw(w, h, data).map(Into::into),
        DynamicImage::ImageLumaA8(_) => GrayAlphaImage::from_raw(w, h, data).map(Into::into),
        DynamicImage::ImageRgb8(_) => RgbImage::from_raw(w, h, data).map(Into::into),
        _ => RgbaImage::from_raw(w, h, data).map(Into::into),
    }
    .ok_or_else(|| Error::new(code::INTERNAL, "a resized picture of the wrong size"))
}

fn encode(image: DynamicImage, format: ImageFormat, quality: u8) -> Result<Vec<u8>, Error> {
    let mut data = Vec::with_capacity(16 << 10);
    if format == ImageFormat::Jpeg {
        JpegEncoder::new_with_quality(&mut data, quality)
            .encode_image(&on_white(image))
            .map_err(internal)?;
    } else {
        let encoder =
            PngEncoder::new_with_quality(&mut data, CompressionType::Default, PngFilter::Adaptive);
        image.write_with_encoder(encoder).map_err(internal)?;
    }
    Ok(data)
}

/// A JPEG has no transparency: what shines through is white.
fn on_white(image: DynamicImage) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let rgba = image.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from[3]);
        for channel in 0..3 {
            let mixed = u32::from(from[channel]) * alpha + 255 * (255 - alpha);
            to[channel] = ((mixed + 127) / 255) as u8;
        }
    }
    rgb.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageBuffer, Luma, Rgb, Rgba};

    fn file(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    /// Left half red, right half blue.
    fn two_colours(width: u32, height: u32) -> DynamicImage {
        let colour = |x| {
            if x < width / 2 {
                Rgb([255, 0, 0])
            } else {
                Rgb([0, 0, 255])
            }
        };
        RgbImage::from_fn(width, height, |x, _| colour(x)).into()
    }

    fn make(picture: &[u8], words: &str) -> Result<Made, Error> {
        thumbnail(picture, &Options::default().with(words).unwrap(), &|| false)
    }

    fn near(pixel: &Rgb<u8>, expected: [u8; 3]) -> bool {
        pixel
            .0
            .iter()
            .zip(expected)
            .all(|(a, b)| a.abs_diff(b) < 40)
    }

    #[test]
    fn jpeg_and_png_both_ways() {
        let image = two_colours(640, 320);
        for (input, words, output) in [
            (ImageFormat::Jpeg, "", ImageFormat::Jpeg),
            (ImageFormat::Png, "", ImageFormat::Png),
            (ImageFormat::Jpeg, "format=png", ImageFormat::Png),
            (ImageFormat::Png, "format=jpeg", ImageFormat::Jpeg),
        ] {
            let made = make(&file(&image, input), words).unwrap();
            assert_eq!(image::guess_format(&made.data).unwrap(), output);
            let expected = format!("{} 128x64 of 640x320", output.to_mime_type());
            assert_eq!(made.description, expected);
            let small = image::load_from_memory(&made.data).unwrap().into_rgb8();
            assert_eq!(small.dimensions(), (128, 64));
            assert!(near(small.get_pixel(10, 32), [255, 0, 0]));
            assert!(near(small.get_pixel(117, 32), [0, 0, 255]));
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(fit(4000, 3000, 128, 128), (128, 96));
        assert_eq!(fit(3000, 4000, 128, 128), (96, 128));
        assert_eq!(fit(4000, 1, 128, 128), (128, 1));
        assert_eq!(fit(100, 50, 128, 128), (100, 50));
        assert_eq!(fit(129, 128, 128, 128), (128, 127));
        assert_eq!(fit(u32::MAX, u32::MAX, 4096, 1), (1, 1));
    }

    #[test]
    fn kinds_of_pixels() {
        let deep = ImageBuffer::from_pixel(300, 200, Luma([0x8000_u16]));
        let clear = RgbaImage::from_pixel(300, 200, Rgba([0, 0, 0, 0]));
        let gray = GrayAlphaImage::from_pixel(300, 200, image::LumaA([9, 255]));
        let wide = ImageBuffer::from_pixel(300, 200, Rgba([0xffff_u16, 0, 0, 0xffff]));
        for (image, colour) in [
            (DynamicImage::ImageLuma16(deep), [128, 128, 128]),
            (clear.into(), [255, 255, 255]),
            (gray.into(), [9, 9, 9]),
            (DynamicImage::ImageRgba16(wide), [255, 0, 0]),
        ] {
            let made = make(&file(&image, ImageFormat::Png), "format=jpeg quality=95").unwrap();
            let small = image::load_from_memory(&made.data).unwrap().into_rgb8();
            assert!(near(small.get_pixel(60, 40), colour), "{colour:?}");
        }
    }

    #[test]
    fn exif_orientation() {
        let mut jpeg = file(&two_colours(640, 320), ImageFormat::Jpeg);
        // An APP1 segment with one tag: orientation 6, to be turned clockwise.
        let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\
            \x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        jpeg.splice(2..2, exif.iter().copied());
        let made = make(&jpeg, "").unwrap();
        assert_eq!(made.description, "image/jpeg 64x128 of 320x640");
        let small = image::load_from_memory(&made.data).unwrap().into_rgb8();
        assert_eq!(small.dimensions(), (64, 128));
        // What was left is on top.
        assert!(near(small.get_pixel(32, 10), [255, 0, 0]));
        assert!(near(small.get_pixel(32, 117), [0, 0, 255]));
    }

    #[test]
    fn what_is_refused() {
        let png = file(&two_colours(640, 320), ImageFormat::Png);
        let jpeg = file(&two_colours(640, 320), ImageFormat::Jpeg);
        let code_of = |picture: &[u8], words| make(picture, words).unwrap_err().code();
        assert_eq!(code_of(b"", ""), code::UNSUPPORTED);
        assert_eq!(code_of(b"GIF89a......", ""), code::UNSUPPORTED);
        assert_eq!(code_of(&png[..png.len() / 2], ""), code::BROKEN);
        assert_eq!(code_of(&jpeg[..20], ""), code::BROKEN);
        let error = make(&jpeg, "max_pixels=204799").unwrap_err();
        assert_eq!(error.code(), code::TOO_LARGE);
        assert_eq!(
            error.message(),
            "the picture is 640x320, more than 204799 pixels"
        );
        make(&jpeg, "max_pixels=204800").unwrap();
    }

    /// A file of some bytes that claims to be of 4 billion pixels.
    #[test]
    fn decompression_bomb() {
        let mut png = file(&two_colours(2, 2), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let mut crc = !0_u32;
        for &byte in &png[12..29] {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0xedb8_8320
                } else {
                    crc >> 1
                };
            }
        }
        png[29..33].copy_from_slice(&(!crc).to_be_bytes());
        let error = make(&png, "").unwrap_err();
        assert_eq!(error.code(), code::TOO_LARGE, "{error}");
    }

    #[test]
    fn cancellation() {
        let png = file(&two_colours(64, 64), ImageFormat::Png);
        let error = thumbnail(&png, &Options::default(), &|| true).unwrap_err();
        assert_eq!(error.code(), code::CANCELLED);
    }
}
