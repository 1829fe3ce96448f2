//go:build !failpoint

// Package failpoint kills or stops a process at a named point of its work, for tests of what such a moment leaves behind. It
// does nothing, and costs nothing, unless the program was built with the tag failpoint.
package failpoint

// Hit does nothing in this build.
func Hit(string) {}

// HitAt does nothing in this build.
func HitAt(_, _ string) {}
