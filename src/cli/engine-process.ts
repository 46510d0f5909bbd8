/** What the engine's child process runs. */
import { runEngineProcess } from '../serve/process/host.ts'
import { tokenTextsOf } from './token-texts.ts'

runEngineProcess(tokenTextsOf)
