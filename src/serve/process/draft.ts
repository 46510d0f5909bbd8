import { systemClock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { openModel } from '../../models/open.ts'
import { loadWeights } from '../../models/weights.ts'
import { Device } from '../../runtime/device.ts'
import { loadKernels } from '../../runtime/kernels.ts'
import { DraftModel, type Proposer } from '../draft-model.ts'
import type { Executor } from '../executor.ts'
import { ModelExecutor } from '../model-executor.ts'
import type { SchedulerOptions } from '../options.ts'
import type { EngineSetup } from './protocol.ts'

const guessesUsual = 4

export interface LoadedDraft {
  proposer: Proposer
  guessesMax: number
  dispose(): void
}

/** Loads the small model that guesses for the one of `target`. Throws a UserError when the two do not fit. */
export function loadDraft(
  path: string,
  setup: EngineSetup,
  { shape }: Executor,
  options: SchedulerOptions,
): LoadedDraft {
  using model = openModel(path, setup.contextMax)
  const { vocabularySize } = model.definition.config
  if (vocabularySize !== shape.vocabularySize) {
    throw new UserError(
      `The draft model ${path} knows ${vocabularySize} tokens, the model ${shape.vocabularySize}: it cannot guess for it.`,
      { fix: 'Give a smaller model of the same family, with the same tokenizer.' },
    )
  }
  const guessesMax = options.guessesMax > 0 ? options.guessesMax : guessesUsual
  const scratchBlocks = DraftModel.scratchBlocks(guessesMax, shape.blockTokens)
  const blockCount = shape.blockCount + options.runningMax * scratchBlocks
  // A device of its own: how many threads ggml takes depends on the model (see ModelExecutor).
  const device = new Device({
    ...(setup.device !== undefined && { device: setup.device }),
    ...(setup.threads !== undefined && { threads: setup.threads }),
  })
  const kernels = device.isHost ? loadKernels() : undefined
  const weights = loadWeights(model, device, { quantize: setup.quantize, kernels })
  const executor = new ModelExecutor(model.definition, weights, device, {
    cacheTokens: blockCount * shape.blockTokens,
    blockTokens: shape.blockTokens,
    // Guesses need no exact bits.
    fastNumerics: true,
  })
  return {
    proposer: new DraftModel(executor, shape.blockCount, scratchBlocks, systemClock),
    guessesMax,
    dispose: () => {
      executor.dispose()
      weights[Symbol.dispose]()
      device.dispose()
    },
  }
}
