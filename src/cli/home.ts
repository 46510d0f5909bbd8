import { join } from 'node:path'
import { homeFolder, userCacheFolder } from '../base/files.ts'

/** Where Ropeway keeps models and runs: ROPEWAY_HOME, or the XDG data folder. */
export function ropewayHome(): string {
  const { ROPEWAY_HOME, XDG_DATA_HOME } = process.env
  if (ROPEWAY_HOME) return ROPEWAY_HOME
  return join(XDG_DATA_HOME || join(homeFolder(), '.local', 'share'), 'ropeway')
}

export function modelsFolder(): string {
  return join(ropewayHome(), 'models')
}

/** What can be made again: in ROPEWAY_HOME, or the user's cache folder. */
export function cacheFolder(): string {
  const { ROPEWAY_HOME } = process.env
  return ROPEWAY_HOME ? join(ROPEWAY_HOME, 'cache') : userCacheFolder()
}
