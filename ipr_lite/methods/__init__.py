"""A method a file: what IPR is compared with. `METHODS`: all, in the order of tables and figures."""

from ipr_lite.methods.acc_collab import ACC, ACC_FIRST, ACC_SFT
from ipr_lite.methods.armap import ARMAP
from ipr_lite.methods.atlas import ATLAS, ATLAS_LEAST, ATLAS_RANDOM
from ipr_lite.methods.bank import AGENTBANK, AGENTBANK_2, AGENTBANK_OUT
from ipr_lite.methods.base import BASE, CAREFUL
from ipr_lite.methods.beam import AGENTRM
from ipr_lite.methods.best_of_n import BEST_OF_N, BEST_OF_N_ORACLE
from ipr_lite.methods.eto import ETO, ETO_SFT
from ipr_lite.methods.grpo import GIGPO, GRPO, HGPO
from ipr_lite.methods.hpl import HPL
from ipr_lite.methods.ipr import IPR
from ipr_lite.methods.method import Method
from ipr_lite.methods.mpo import MPO, MPO_SFT, MPO_THOUGHT
from ipr_lite.methods.naive_step_dpo import NAIVE_STEP_DPO
from ipr_lite.methods.optima import OPTIMA
from ipr_lite.methods.orps import ORPS
from ipr_lite.methods.ppo import PPO, STEP_PPO
from ipr_lite.methods.random_pairs import RANDOM_PAIRS
from ipr_lite.methods.refine import REFINE, REFINE_UNMASKED
from ipr_lite.methods.rft import RFT
from ipr_lite.methods.sft import SFT, SFT_CAREFUL, SFT_LONG
from ipr_lite.methods.student import STUDENT

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        BASE, SFT, SFT_LONG, ATLAS_LEAST, ATLAS_RANDOM, ATLAS, REFINE_UNMASKED, REFINE,
        AGENTBANK_OUT, AGENTBANK_2, AGENTBANK, RFT, ARMAP, BEST_OF_N, AGENTRM, ORPS,
        BEST_OF_N_ORACLE, PPO, STEP_PPO, MPO_SFT, MPO_THOUGHT, MPO, ACC_SFT, ACC_FIRST, ACC, STUDENT, GRPO, GIGPO, HGPO, NAIVE_STEP_DPO, ETO, ETO_SFT, RANDOM_PAIRS, OPTIMA, HPL, IPR, SFT_CAREFUL, CAREFUL,
    )
}  # fmt: skip
