// Package layer unpacks layers safely into directories that overlayfs can stack.
package layer

// Limits bound what one layer may become.
type Limits struct {
	Bytes   int64 // of all files together, holes counted
	Entries int
	Ratio   int64
}
