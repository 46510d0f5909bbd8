import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { Random } from '../../../src/base/random.ts'
import { readRecords, recordsOf } from '../../../src/train/data/records.ts'
import { all, testFolder, write } from './folder.ts'

const folder = testFolder()
const valuesOf = async (file: string, options = {}) =>
  (await all(readRecords(file, options))).map((r) => r.value)
const linesOf = async (file: string) => (await all(readRecords(file))).map((record) => record.source.line)

describe('tables', () => {
  test('quoted fields hold separators, quotes and line ends, and later rows keep their lines', async () => {
    const file = write(folder, 'a.csv', 'Q,A\r\n"a, ""b""\nc",1\r\n\r\n,"2"\n')
    expect(await valuesOf(file)).toEqual([
      { Q: 'a, "b"\nc', A: '1' },
      { Q: '', A: '2' },
    ])
    expect(await linesOf(file)).toEqual([2, 5])
  })

  test('a quote is a character like any other in TSV', async () => {
    const file = write(folder, 'a.tsv', 'id\ttext\n1\t"so\n2\tsaid "he"\n')
    expect(await valuesOf(file, { columns: { text: 'text' } })).toEqual([
      { text: '"so' },
      { text: 'said "he"' },
    ])
  })

  test('columns without a header are counted from 1', async () => {
    const file = write(folder, 'b.tsv', '17\t1\tgood\n18\t0\tbad\n')
    expect(await valuesOf(file, { columns: { text: 3, label: 2 } })).toEqual([
      { text: 'good', label: '1' },
      { text: 'bad', label: '0' },
    ])
  })

  test('what is wrong with a row is said with its line', async () => {
    const short = write(folder, 'c.csv', 'a,b\n1,2\n3\n')
    await expect(valuesOf(short)).rejects.toThrow(/c\.csv:3: the row has 1 fields and the table 2 columns/)
    const open = write(folder, 'd.csv', 'a,b\n1,2\n"3,4\n5,6\n')
    await expect(valuesOf(open)).rejects.toThrow(/d\.csv:3: a double quote opens a field that does not end/)
    const behind = write(folder, 'e.csv', 'a,b\n"1"x,"2"\n')
    await expect(valuesOf(behind)).rejects.toThrow(/e\.csv:2: behind a quoted field stands "x,/)
    await expect(valuesOf(short, { columns: { text: 'c' } })).rejects.toThrow(
      /c\.csv:2: there is no column c/,
    )
  })
})

describe('JSON', () => {
  test('a list gives the same records as lines do, however it is laid out', async () => {
    const random = new Random(11)
    const value = (depth: number): unknown => {
      const kinds = ['", ] } [ { \\', '한글 😀\n', random.integer(1e6), true, null]
      if (depth === 0 || random.uniform() < 0.4) return kinds[random.integer(kinds.length)]
      const items = Array.from({ length: random.integer(4) }, () => value(depth - 1))
      return random.uniform() < 0.5 ? items : Object.fromEntries(items.map((item, i) => [`k"${i}`, item]))
    }
    for (const indent of [undefined, 1, '\t']) {
      const records = Array.from({ length: 30 }, () => ({ a: value(3) }))
      const list = write(folder, 'list.json', JSON.stringify(records, null, indent))
      const lines = write(folder, 'list.jsonl', records.map((one) => JSON.stringify(one)).join('\n\n'))
      expect(await valuesOf(list)).toEqual(records)
      expect(await valuesOf(lines)).toEqual(records)
    }
  })

  test('records know the line at which they begin', async () => {
    expect(await linesOf(write(folder, 'l.json', '[\n {\n"a": 1}\n,\n\n {"a":\n2}, {"a": 3}\n]\n'))).toEqual([
      2, 6, 7,
    ])
    expect(await linesOf(write(folder, 'l.jsonl', '\n{"a":1}\n\n{"a":2}'))).toEqual([2, 4])
  })

  test('what is no JSON is said with its line', async () => {
    await expect(valuesOf(write(folder, 'x.jsonl', '{"a":1}\n{"a":\n'))).rejects.toThrow(
      /x\.jsonl:2: this is not JSON/,
    )
    await expect(valuesOf(write(folder, 'y.json', '[{"a":1},\n{"a":'))).rejects.toThrow(
      /y\.json:2: the list has no end/,
    )
    await expect(valuesOf(write(folder, 'z.json', '[{"a":1}]\n{}'))).rejects.toThrow(
      /z\.json:2: nothing but one list/,
    )
    await expect(valuesOf(write(folder, 'n.jsonl', '{"a":1}\n7\n'))).rejects.toThrow(
      /n\.jsonl:2: a record must be an object/,
    )
  })
})

describe('bytes', () => {
  test('gzip is known by its content, and a byte order mark is no text', async () => {
    const file = write(folder, 'zipped.jsonl', gzipSync('\ufeff{"text":"가"}\n'))
    expect(await valuesOf(file)).toEqual([{ text: '가' }])
  })

  test('a gzip file that is cut off is refused', async () => {
    const bytes = gzipSync(JSON.stringify({ text: Array.from({ length: 5000 }, (_, i) => i * i).join() }))
    await expect(valuesOf(write(folder, 'cut.jsonl.gz', bytes.subarray(0, -20)))).rejects.toThrow(
      /cannot be read/,
    )
  })

  test('a binary file is told as that, for no encoding converts it', async () => {
    const bytes = Buffer.concat([Buffer.from('PAR1\n'), Buffer.from([0x15, 0, 0xff, 0xfe, 0, 0x0a])])
    const path = write(folder, 'table.parquet', bytes)
    await expect(valuesOf(path)).rejects.toMatchObject({
      message: /table\.parquet is a binary file, or text in UTF-16/,
      fix: /JSONL or CSV in UTF-8; Parquet/,
    })
  })

  test('a line that is not UTF-8 is named, with how to convert it', async () => {
    const bytes = Buffer.concat([Buffer.from('Q,A\nx,y\n'), Buffer.from([0xb0, 0xa1, 0x2c, 0x61, 0x0a])])
    const attempt = valuesOf(write(folder, 'cp949.csv', bytes))
    await expect(attempt).rejects.toMatchObject({
      message: /cp949\.csv:3: the line is not UTF-8/,
      fix: /iconv/,
    })
  })

  test('characters that lie across the pieces of a large file stay whole', async () => {
    const texts = Array.from({ length: 3 }, (_, i) => '가'.repeat(400_000 + i))
    const file = write(folder, 'large.jsonl', texts.map((text) => JSON.stringify({ text })).join('\n'))
    expect(await valuesOf(file)).toEqual(texts.map((text) => ({ text })))
  })

  test('a text file is one record', async () => {
    expect(await valuesOf(write(folder, 'a.txt', 'one\n\n[two]'))).toEqual([{ text: 'one\n\n[two]' }])
    expect(await valuesOf(write(folder, 'empty.txt', ''))).toEqual([])
  })

  test('a text file that is too long for one record is refused with what to do, before it is in memory', async () => {
    const text = 'x'.repeat(1 << 20)
    let read = 0
    const lines = async function* () {
      for (; read < 1000; read++) yield [{ text, number: read + 1 }]
    }
    await expect(all(recordsOf('long.txt', lines()))).rejects.toMatchObject({
      message: expect.stringMatching(/long\.txt has more than 64 million characters/),
      fix: expect.stringMatching(/data: \{text: FILE\}/),
    })
    expect(read).toBeLessThan(70)
  })
})
