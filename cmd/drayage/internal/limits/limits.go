// Package limits has the bounds that the commands hold foreign input to: lists, configuration,
// reports and passwords that users give, and requests of clients. docs/limits.md has them as a
// table, which a test compares.
package limits

import "time"

// Lists and reports that users give.
const (
	// ListBytes is the largest list of images or of digests, in bytes.
	ListBytes = 16 << 20
	// ListImages is how many images a list may name.
	ListImages = 100_000
	// ListDigests is how many digests a list for --since may have.
	ListDigests = 200_000
	// ReportBytes is the largest report of a pull that is read, in bytes.
	ReportBytes = 16 << 20
	// WarmBytes is the largest file of groups to keep warm, in bytes.
	WarmBytes = 4 << 20
	// WarmValues bounds how many values it has, by the characters that begin one:
	// some 20,000 images.
	WarmValues = 150_000
	// ReportEntries is how many entries the lists of a report may have together.
	ReportEntries = 50_000
)

// What serve is asked for.
const (
	// RequestHeaderBytes is how large the header of a request may be, in bytes.
	RequestHeaderBytes = 32 << 10
	// PasswordChecks is how many passwords may wait to be checked, PasswordChecksPerNetwork how many
	// of them of one address (of an IPv6 network of 64 bits), and PasswordWait for how long.
	PasswordChecks           = 1024
	PasswordChecksPerNetwork = 256
	PasswordWait             = 5 * time.Second
)

// Files that users have.
const (
	// CertificateBytes is the largest file of certificates or of a key, in bytes.
	CertificateBytes = 4 << 20
	// PasswordBytes is the largest file of passwords of a mirror, in bytes.
	PasswordBytes = 16 << 20
	// StdinBytes is how much is read of a standard input that has a password, in bytes.
	StdinBytes = 1 << 20
)
