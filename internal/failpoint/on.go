//go:build failpoint

// Package failpoint kills or stops a process at a named point of its work, for tests of what such a moment leaves behind. It
// does nothing, and costs nothing, unless the program was built with the tag failpoint.
package failpoint

import (
	"os"
	"strings"
	"sync"
	"syscall"
)

// The variable that arms one point: NAME:kill ends the process as SIGKILL does, NAME:stop stops it as SIGSTOP does, once.
const variable = "ACTCORE_FAIL"

var once sync.Once

// Hit is the point with this name. An armed one does not return (kill), or returns when the process is continued (stop).
func Hit(name string) {
	armed, action, ok := strings.Cut(os.Getenv(variable), ":")
	if !ok || armed != name {
		return
	}
	signal := syscall.SIGKILL
	if action == "stop" {
		signal = syscall.SIGSTOP
	}
	once.Do(func() {
		_ = syscall.Kill(os.Getpid(), signal)
		for signal == syscall.SIGKILL { // nothing more happens until the signal arrives
			select {}
		}
	})
}
