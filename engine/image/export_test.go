package image

// Elements is elements.
var Elements = elements
