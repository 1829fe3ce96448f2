// Package e2e holds the built binaries to the main job, on real servers. The harness is test/system.
package e2e

import (
	"os"
	"testing"

	"github.com/activity-core/activity-core/test/system"
)

func TestMain(m *testing.M) { os.Exit(system.Main(m, 4)) }
