import { InvalidArgumentError } from 'commander'
import { millisecondsOf, rangeHint, timeHint, wholeNumberIn } from '../api/control/engine-flags.ts'
import { systemClock } from '../base/clock.ts'
import { type DType, dtypes } from '../base/dtype.ts'

/** Parsers of option values: each names what it takes when it refuses. */
export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = wholeNumberIn(text, min, max)
    if (value !== undefined) return value
    throw new InvalidArgumentError(rangeHint(min, max))
  }
}

export function number(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (Number.isFinite(value) && value >= min && value <= max && text.trim() !== '') return value
    throw new InvalidArgumentError(`It takes a number from ${min} to ${max}.`)
  }
}

/** {@link millisecondsOf} a text. */
export function milliseconds(text: string): number {
  const value = millisecondsOf(text)
  if (value !== undefined) return value
  throw new InvalidArgumentError(timeHint)
}

/** Unix milliseconds of what a person calls `2h` ago. */
export function agoMs(duration: number): number {
  return Math.floor(systemClock.unixMs() - duration)
}

const quantizable = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_K', 'Q5_K', 'Q6_K', 'Q2_K', 'Q3_K'] as const

/** A weight format, written in either case: `q8_0`. */
export function weightFormat(text: string): DType {
  const name = text.toUpperCase()
  const found = quantizable.find((format) => format === name)
  if (found !== undefined && found in dtypes) return found
  throw new InvalidArgumentError(`It takes one of ${quantizable.join(', ').toLowerCase()}.`)
}

export function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}
