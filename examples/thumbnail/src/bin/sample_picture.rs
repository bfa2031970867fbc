//! Draws a picture that is as much work to decode as a photo, for the demo and
//! for measurements: `sample_picture <width> <height> <out.jpg>`.
//!
//! The same arguments always draw the same picture: hills under an evening
//! sky, with grain, as a camera's sensor adds, so that no block is flat.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

/// The largest side.
const MAX: u32 = 20_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let side = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=MAX).contains(n));
    let parsed = match args.as_slice() {
        [width, height, path] => side(width).zip(side(height)).map(|size| (size, path)),
        _ => None,
    };
    let Some(((width, height), path)) = parsed else {
        eprintln!("usage: sample_picture <width> <height> <out.jpg>, sides from 1 to {MAX}");
        return ExitCode::from(2);
    };
    match write(&draw(width, height), path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample_picture: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(picture: &RgbImage, path: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = BufWriter::new(File::create(path)?);
    JpegEncoder::new_with_quality(&mut out, 90).encode_image(picture)?;
    Ok(out.flush()?)
}

fn draw(width: u32, height: u32) -> RgbImage {
    let (w, h) = (width as f32, height as f32);
    // Where each of three ranges of hills begins, in each column.
    let ridges: Vec<[f32; 3]> = (0..width)
        .map(|column| {
            let x = column as f32 / w;
            [
                0.55 + 0.09 * (x * 5.0 + 1.0).sin() + 0.02 * (x * 23.0).sin(),
                0.68 + 0.07 * (x * 7.0 + 4.0).sin() + 0.015 * (x * 41.0).sin(),
                0.82 + 0.05 * (x * 4.0 + 2.0).sin() + 0.01 * (x * 67.0).sin(),
            ]
        })
        .collect();
    let hills = [[96.0, 92.0, 128.0], [58.0, 76.0, 84.0], [30.0, 48.0, 36.0]];
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    RgbImage::from_fn(width, height, |column, row| {
        let (x, y) = (column as f32 / w, row as f32 / h);
        let range = ridges[column as usize].iter().rposition(|&ridge| y > ridge);
        let colour = range.map_or_else(|| sky(x, y, w / h), |range| hills[range]);
        // The ground is rougher than the air.
        let grain = noise.next() * if range.is_some() { 22.0 } else { 8.0 };
        Rgb(colour.map(|channel| (channel + grain) as u8))
    })
}

/// An evening sky, with the sun at one third.
fn sky(x: f32, y: f32, aspect: f32) -> [f32; 3] {
    let sun = 1.0 / (1.0 + 60.0 * (((x - 0.33) * aspect).powi(2) + (y - 0.4).powi(2)));
    [
        70.0 + 170.0 * y + 150.0 * sun,
        90.0 + 70.0 * y + 110.0 * sun,
        170.0 - 60.0 * y + 30.0 * sun,
    ]
}

/// Grain between -1 and 1 (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_their_size_and_are_reproducible() {
        let picture = draw(64, 48);
        assert_eq!(picture.dimensions(), (64, 48));
        assert_eq!(picture, draw(64, 48));
        // The sky is bright, the foreground is dark.
        let brightness = |x, y| {
            picture
                .get_pixel(x, y)
                .0
                .iter()
                .map(|&c| u32::from(c))
                .sum::<u32>()
        };
        assert!(brightness(21, 19) > brightness(21, 47) + 200);
        draw(1, 1);
    }
}
