package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is the operating-system user that the Postgres server runs as. Postgres refuses to
// run as root, so a devstack started by root gives the server away.
type account struct {
	name       string
	uid, gid   int
	credential *syscall.Credential // nil: the user of this process
}

// unprivileged are the accounts tried, in this order, when the devstack runs as root.
var unprivileged = []string{"postgres", "nobody"}

// serverAccount returns the account for the Postgres server: the user itself, or for root the
// first of the unprivileged accounts that exists.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range unprivileged {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return account{
			name: name, uid: uid, gid: gid,
			credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		}, nil
	}
	return account{}, fmt.Errorf("started by root, and Postgres does not run as root, but neither the user %q nor %q exists; "+
		"create one (useradd --system postgres) or start as an ordinary user", unprivileged[0], unprivileged[1])
}

// own makes the account the owner of path.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// canEnter tells whether the account can make dir its working directory, by doing so: that
// asks the kernel about every parent folder, whatever rights, lists or mounts decide.
func (a account) canEnter(dir string) bool {
	if a.credential == nil {
		return true
	}
	shell, err := exec.LookPath("true")
	if err != nil {
		return false
	}
	cmd := exec.Command(shell)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential}
	return cmd.Run() == nil
}
