//! A QR code for terminals, two modules a character.

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

/// None when the text is too long for one. With colours it is black on white whatever the terminal's
/// own are; without, it supposes light text on a dark ground.
pub(super) fn code(text: &str, colour: bool) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    let mut image = code.render::<Dense1x2>();
    if !colour {
        image
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark);
        return Some(image.build());
    }
    let lines = image.build();
    let painted: Vec<String> = lines
        .lines()
        .map(|line| format!("\x1b[38;5;16;48;5;231m{line}\x1b[0m"))
        .collect();
    Some(painted.join("\n"))
}
