package policy

import (
	"math/bits"
	"strings"
)

// words is a set of the words of a statement, one bit each.
type words uint32

// The words. Their order is that of the explanations.
const (
	wordSelect words = 1 << iota
	wordInsert
	wordUpdate
	wordDelete
	wordMerge
	wordTruncate
	wordCopyIn
	wordCopyOut
	wordCall
	wordDo
	wordDDL
	wordDCL
	wordMaintenance
	wordListen
	wordNotify
	wordLock
	wordSet
	wordFunctionCall
	wordReplication
	wordSession
	wordUnknown
)

// The groups.
const (
	wordsRead  = wordSelect | wordCopyOut
	wordsWrite = wordInsert | wordUpdate | wordDelete | wordMerge | wordTruncate | wordCopyIn
	wordsAll   = wordUnknown - 1
)

// wordOf gives the bit of a word; a word that is not one is UNKNOWN.
func wordOf(word string) words {
	switch word {
	case "SELECT":
		return wordSelect
	case "INSERT":
		return wordInsert
	case "UPDATE":
		return wordUpdate
	case "DELETE":
		return wordDelete
	case "MERGE":
		return wordMerge
	case "TRUNCATE":
		return wordTruncate
	case "COPY-IN":
		return wordCopyIn
	case "COPY-OUT":
		return wordCopyOut
	case "CALL":
		return wordCall
	case "DO":
		return wordDo
	case "DDL":
		return wordDDL
	case "DCL":
		return wordDCL
	case "MAINTENANCE":
		return wordMaintenance
	case "LISTEN":
		return wordListen
	case "NOTIFY":
		return wordNotify
	case "LOCK":
		return wordLock
	case "SET":
		return wordSet
	case "FUNCTION-CALL":
		return wordFunctionCall
	case "REPLICATION":
		return wordReplication
	case "SESSION":
		return wordSession
	}
	return wordUnknown
}

// parseWord reads a word or a group as a rule writes it.
func parseWord(text string) (w words, ok bool) {
	switch text {
	case "READ":
		return wordsRead, true
	case "WRITE":
		return wordsWrite, true
	case "ALL":
		return wordsAll, true
	case "UNKNOWN":
		return wordUnknown, true
	}
	w = wordOf(text)
	return w, w != wordUnknown
}

// wordNames lists the words in the order of their bits.
func wordNames() []string {
	return []string{
		"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY-IN", "COPY-OUT", "CALL", "DO", "DDL", "DCL",
		"MAINTENANCE", "LISTEN", "NOTIFY", "LOCK", "SET", "FUNCTION-CALL", "REPLICATION", "SESSION", "UNKNOWN",
	}
}

// String writes the words: "SELECT, DELETE".
func (w words) String() string {
	names := wordNames()
	var texts []string
	for ; w != 0; w &= w - 1 {
		texts = append(texts, names[bits.TrailingZeros32(uint32(w))])
	}
	return strings.Join(texts, ", ")
}

// words gives the words of a statement; without any it is UNKNOWN.
func (s *Statement) words() words {
	var w words
	for _, word := range s.Words {
		w |= wordOf(word)
	}
	if s.Unknown != "" || w == 0 {
		w |= wordUnknown
	}
	return w
}
