/**
 * What training asks of whoever composes it with the serving engine: to go on with prompts, by the weights as they
 * are now. Training itself never serves.
 */
import type { Device } from '../../runtime/device.ts'
import type { Parameters } from '../parameters.ts'

export interface DecodeRequest {
  prompt: readonly number[]
  tokensMax: number
  /** 0 takes the most likely token. */
  temperature: number
  seed: number
  /** Tokens that end the answer; they are not part of it. */
  endings: readonly number[]
  logProbabilities?: boolean
}

export interface Decoded {
  /** The ending token is not among them. */
  tokens: number[]
  /** The token that ended it; undefined where it was cut at its limit. */
  ending: number | undefined
  /** Of each of `tokens`, by the model at temperature 1; empty unless they were asked for. */
  logProbabilities: number[]
}

/** What follows each prompt. Changes nothing that training computes. */
export type Decode = (
  parameters: Parameters,
  device: Device,
  requests: readonly DecodeRequest[],
) => Promise<Decoded[]>
