import { expect, test } from 'vitest'
import { ThreadChoice } from '../../src/train/thread-choice.ts'

/** Milliseconds of a step with 2 threads and with 1. */
function play(choice: ThreadChoice, steps: number, two: number, one: number): number[] {
  return Array.from({ length: steps }, () => {
    const { threads } = choice
    choice.took(threads === 2 ? two : one)
    return threads
  })
}

test('the faster number of threads is used, and tried again when the machine has changed', () => {
  const choice = new ThreadChoice(2, 3, 20)
  expect(play(choice, 20, 100, 180)).toEqual([...[2, 2, 2], ...[1, 1, 1], ...Array(14).fill(2)])
  // A neighbour took a core.
  expect(play(choice, 20, 2000, 180)).toEqual([...[2, 2, 2], ...[1, 1, 1], ...Array(14).fill(1)])
})

test('one slow step does not decide', () => {
  const choice = new ThreadChoice(2, 3, 20)
  for (const ms of [100, 5000, 100, 180, 180, 180]) choice.took(ms)
  expect(choice.threads).toBe(2)
})

test('with one thread there is nothing to try', () => {
  expect(play(new ThreadChoice(1, 3, 20), 25, 0, 100)).toEqual(Array(25).fill(1))
})
