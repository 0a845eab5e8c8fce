// Package faas is the vocabulary of hob: the things a user can name (apps,
// functions, calls), the states a call passes through, what goes into and out
// of a call, the limits that hold everywhere, and the one error type that
// crosses package boundaries.
//
// It holds no goroutine, opens no file and imports only the standard library,
// so every other package may import it and it can be read in one sitting.
package faas
