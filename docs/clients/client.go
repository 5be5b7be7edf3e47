// An application's way to the shards during a reshard, in Go with go-sql-driver/mysql: ../routing.md.
package main

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

type shard struct {
	Index, Port  int
	Host, Schema string
}
type rule struct{ Rule, Charset string }
type document struct {
	Format, Version, Modulus int64
	Plan                     string
	Shards                   []shard
	Tables                   map[string]rule
	Default                  *rule
}
type router struct {
	path string
	held *document
}

// ../routing.md says what each means; a lost connection has no number.
var again = map[uint16]bool{1040: true, 1044: true, 1045: true, 1053: true, 1142: true, 1180: true, 1205: true,
	1213: true, 1227: true, 1290: true, 1317: true, 1836: true, 1927: true, 4151: true}

// The last document stays in use while the file is away, half written or an older one.
func (r *router) newest() (*document, error) {
	var found document
	if text, err := os.ReadFile(r.path); err == nil && json.Unmarshal(text, &found) == nil && found.Format == 1 {
		if r.held == nil || found.Plan == r.held.Plan && found.Version > r.held.Version {
			r.held = &found
		}
	}
	if r.held == nil {
		return nil, fmt.Errorf("%s holds no routing document of format 1", r.path)
	}
	return r.held, nil
}

func (r *router) shard(table, key string) (*shard, error) {
	now, err := r.newest()
	if err != nil {
		return nil, err
	}
	by, known := now.Tables[table]
	if !known && now.Default != nil {
		by = *now.Default
	}
	number, isNumber := new(big.Int).SetString(key, 10)
	switch by.Rule {
	case "crc32":
		bytes, err := encode(key, by.Charset)
		if err != nil {
			return nil, err
		}
		number = big.NewInt(int64(crc32.ChecksumIEEE(bytes)))
	case "floor_mod", "abs_mod":
		if !isNumber {
			return nil, fmt.Errorf("%s: %q is no integer", table, key)
		}
		if by.Rule == "abs_mod" {
			number.Abs(number)
		}
	default:
		return nil, fmt.Errorf("%s: on every shard, or not in the routing", table)
	}
	// Of big.Int Mod is never negative.
	return &now.Shards[number.Mod(number, big.NewInt(now.Modulus)).Int64()], nil
}

// Refuses what it does not know for certain: of latin1 the characters from 0x80 to 0x9f, binary.
func encode(key, charset string) (bytes []byte, err error) {
	for _, c := range key {
		switch {
		case charset == "binary":
			return nil, fmt.Errorf("text is not placed by binary")
		case c < 0x80 || charset == "utf8mb4" || charset == "utf8mb3" && c <= 0xffff:
			bytes = append(bytes, string(c)...)
		case charset == "latin1" && c >= 0xa0 && c <= 0xff:
			bytes = append(bytes, byte(c))
		default:
			return nil, fmt.Errorf("cannot write %q in %s", key, charset)
		}
	}
	return bytes, nil
}

// work once, in one transaction; isDone tells, by a locking read, whether it was.
func (r *router) transact(login, table, key string, work func(*sql.Tx) error, isDone func(*sql.Tx) (bool, error)) error {
	unsure := false
	for giveUp := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		place, err := r.shard(table, key)
		if err != nil {
			return err
		}
		err = func() error {
			db, err := sql.Open("mysql", fmt.Sprintf("%s@tcp(%s:%d)/%s?timeout=2s&readTimeout=10s", login, place.Host, place.Port, place.Schema))
			if err != nil {
				return err
			}
			defer db.Close()
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			defer tx.Rollback() // does nothing after a commit
			if unsure {
				if done, err := isDone(tx); done || err != nil {
					return err
				}
			}
			if err := work(tx); err != nil {
				return err
			}
			unsure = true // what breaks from here on may have been done all the same
			return tx.Commit()
		}()
		var refused *mysql.MySQLError
		if err == nil || errors.As(err, &refused) && !again[refused.Number] || time.Now().After(giveUp) {
			return err
		}
	}
}

// Lines of `shard TABLE KEY` and `write TABLE KEY STATEMENT QUESTION`, by tabs; answers each.
func main() {
	r := &router{path: os.Args[1]}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		part := strings.Split(lines.Text(), "\t")
		if part[0] == "shard" {
			if place, err := r.shard(part[1], part[2]); err != nil {
				fmt.Println("error", err)
			} else {
				fmt.Println("ok", place.Index)
			}
			continue
		}
		err := r.transact(os.Args[2]+":"+os.Args[3], part[1], part[2],
			func(tx *sql.Tx) error { _, err := tx.Exec(part[3]); return err },
			func(tx *sql.Tx) (bool, error) {
				rows, err := tx.Query(part[4])
				if err != nil {
					return false, err
				}
				defer rows.Close()
				done := rows.Next()
				return done, rows.Err()
			})
		if err != nil {
			fmt.Println("error", err)
		} else {
			fmt.Println("ok")
		}
	}
}
