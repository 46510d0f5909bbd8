/** What the engine's child process runs. */
import { runEngineProcess } from '../serve/process/host.ts'
import { ConstraintThread } from './constraint-maker.ts'
import { tokenTextsOf } from './token-texts.ts'

runEngineProcess({ textsOf: tokenTextsOf, makerOf: (modelPath) => new ConstraintThread(modelPath) })
