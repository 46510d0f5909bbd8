import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { UserError } from '../../base/errors.ts'
import type { Arrival } from './workload.ts'

/**
 * Reads a trace of requests: CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens (Azure LLM
 * inference traces), or JSON lines with timestamp (ms), input_length, output_length and perhaps hash_ids
 * (Mooncake). Either may be gzipped.
 */
export function readTrace(path: string): Arrival[] {
  const bytes = readFileSync(path)
  const text = (bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes).toString('utf8')
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  const first = lines[0]
  if (first === undefined) throw new UserError(`${path} has no lines.`, { failure: 'usage' })
  const arrivals = first.startsWith('{')
    ? lines.map(fromJson(path))
    : lines.slice(1).map(fromCsv(path, first))
  const startMs = arrivals.reduce((least, { atMs }) => Math.min(least, atMs), Number.POSITIVE_INFINITY)
  for (const arrival of arrivals) arrival.atMs -= startMs
  return arrivals.sort((a, b) => a.atMs - b.atMs)
}

function fromJson(path: string): (line: string, index: number) => Arrival {
  return (line, index) => {
    const at = `${path}, line ${index + 1}`
    const row = parse(line, at)
    const pieces = row.hash_ids
    const arrival = {
      atMs: numberOf(row.timestamp, 'timestamp', at, 0),
      promptTokens: numberOf(row.input_length, 'input_length', at, 1),
      outputTokens: numberOf(row.output_length, 'output_length', at, 1),
    }
    return Array.isArray(pieces) ? { ...arrival, pieces: pieces.map(Number) } : arrival
  }
}

function parse(line: string, at: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch (error) {
    throw new UserError(`${at} is not JSON.`, { failure: 'usage', cause: error })
  }
}

function fromCsv(path: string, header: string): (line: string, index: number) => Arrival {
  const names = header.trim().split(',')
  const columns = ['TIMESTAMP', 'ContextTokens', 'GeneratedTokens'].map((name) => names.indexOf(name))
  if (columns.includes(-1)) {
    throw new UserError(`${path} is no trace: its first line is '${header.slice(0, 80)}'.`, {
      failure: 'usage',
      fix: 'A CSV trace begins with TIMESTAMP,ContextTokens,GeneratedTokens.',
    })
  }
  return (line, index) => {
    const at = `${path}, line ${index + 2}`
    const cells = line.trim().split(',')
    const [time, prompt, output] = columns.map((column) => cells[column] ?? '')
    // Seven digits of a second; Date takes three, and the zone does not matter for differences.
    const match = /^(.*?)(\.\d+)?$/.exec(time!)
    const atMs = Date.parse(`${match![1]!.replace(' ', 'T')}Z`) + Number(match![2] ?? 0) * 1000
    return {
      atMs: numberOf(atMs, 'TIMESTAMP', at, 0),
      promptTokens: numberOf(Number(prompt), 'ContextTokens', at, 1),
      outputTokens: numberOf(Number(output), 'GeneratedTokens', at, 1),
    }
  }
}

function numberOf(value: unknown, name: string, at: string, min: number): number {
  if (typeof value === 'number' && Number.isFinite(value) && value >= min) return value
  throw new UserError(`${at}: ${name} is not a number from ${min} on.`, { failure: 'usage' })
}
