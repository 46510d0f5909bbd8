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
}

/** The tokens that follow each prompt. Changes nothing that training computes. */
export type Decode = (
  parameters: Parameters,
  device: Device,
  requests: readonly DecodeRequest[],
) => Promise<number[][]>
