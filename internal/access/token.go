package access

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"math/big"
	"strings"
)

// A token is "actcore_", 30 random characters and a checksum of 6, all from 0-9, A-Z and a-z. The prefix and the checksum let
// scanners find leaked tokens without asking us; the random part has more than 178 bits.
const (
	TokenPrefix = "actcore_"

	randomChars   = 30
	checksumChars = 6
	alphabet      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// NewToken makes a token.
func NewToken() string {
	random := make([]byte, randomChars)
	most := big.NewInt(int64(len(alphabet)))
	for i := range random {
		n, err := rand.Int(rand.Reader, most)
		if err != nil {
			panic(err) // the operating system's generator does not fail
		}
		random[i] = alphabet[n.Int64()]
	}
	return TokenPrefix + string(random) + checksum(string(random))
}

// IsToken reports whether text has the form of a token, and the right checksum.
func IsToken(text string) bool {
	body, ok := strings.CutPrefix(text, TokenPrefix)
	if !ok || len(body) != randomChars+checksumChars || strings.Trim(body, alphabet) != "" {
		return false
	}
	return checksum(body[:randomChars]) == body[randomChars:]
}

// hintChars is how many characters of a token are kept, by which people tell tokens apart. They are of the checksum, and of no use
// to anybody who looks for the rest.
const hintChars = 4

// Hint returns the last characters of a token.
func Hint(token string) string { return token[max(0, len(token)-hintChars):] }

// HashToken is what is stored of a token. A plain hash is enough for what is random: there is nothing to guess.
func HashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func checksum(random string) string {
	n := crc32.ChecksumIEEE([]byte(random))
	out := make([]byte, checksumChars) // 62^6 is more than 2^32
	for i := len(out) - 1; i >= 0; i-- {
		out[i], n = alphabet[n%uint32(len(alphabet))], n/uint32(len(alphabet))
	}
	return string(out)
}
