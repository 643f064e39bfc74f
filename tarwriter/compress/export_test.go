package compress

// Bzip2 is the format that is only read.
const Bzip2 = formatBzip2
