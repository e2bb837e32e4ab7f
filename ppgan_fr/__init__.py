"""Face restoration on PaddlePaddle: GFP-GAN, HiFaceGAN and SGPN.

Importing the package imports nothing else: a deployment which needs only `ppgan_fr.face` loads no training code.
"""

__version__ = "0.1.0"
